# Stage stale: adapters that VMware gave and that are not there any more. They may hold the addresses that
# their successors shall have. Nothing else is removed: no other class, and never a disk controller.

function Start-StaleStage {
    if ($Plan['STALE'] -ne '1') { return New-Result 'skipped' 'the network is left alone' }
    $left = @()
    foreach ($ghost in @(Get-Ghosts)) {
        if (-not $ghost) { continue }
        Write-Log ('stale adapter ' + $ghost)
        if (-not (Remove-Ghost $ghost)) { $left += $ghost }
    }
    if (@($left).Count -gt 0) { return New-Result 'failed' ('could not be removed: ' + ($left -join ', ')) }
    New-Result 'done' ''
}

# Instances of network adapters below Enum\PCI that VMware made (as vendor or as vendor of the card) and that
# are no device of now.
function Get-Ghosts {
    $present = @(Get-WmiObject -Class Win32_PnPEntity -Filter "DeviceID LIKE 'PCI%'" | ForEach-Object { $_.DeviceID })
    $macs = @(Get-Adapters | ForEach-Object { $_.MACAddress -replace '[:-]', '' })
    $root = 'HKLM:\SYSTEM\CurrentControlSet\Enum\PCI'
    foreach ($model in @(Get-ChildItem -Path $root -ErrorAction SilentlyContinue)) {
        if (-not $model -or $model.PSChildName -notmatch '^VEN_15AD&|&SUBSYS_[0-9A-F]{4}15AD') { continue }
        foreach ($instance in @(Get-ChildItem -Path $model.PSPath)) {
            if (-not $instance) { continue }
            $id = 'PCI\{0}\{1}' -f $model.PSChildName, $instance.PSChildName
            if ((Get-Value $instance.PSPath 'ClassGUID') -ne $NetClass) { continue }
            if ($present -contains $id) { continue }
            # A PCIe adapter's instance holds its MAC: 000C29FFFFF3FFDE00 is 00:0c:29:f3:ff:de.
            $mac = $instance.PSChildName -replace '^([0-9A-F]{6})FFFF([0-9A-F]{6})00$', '$1$2'
            if ($macs -contains $mac) { continue }
            $id
        }
    }
}

# Removed, or at least without addresses: then it is in nobody's way.
function Remove-Ghost($id) {
    if ([int]$Plan['BUILD'] -ge 19041) {
        $code = Invoke-Program ($System + 'pnputil.exe') @('/remove-device', ('"' + $id + '"'))
        if ($GoodCodes -contains $code) { return $true }
    } elseif (Test-FullLanguage) {
        try { if (Remove-DeviceNode $id) { return $true } }
        catch { Write-Log ('could not remove the device: ' + $_.Exception.Message) }
    }
    Clear-GhostAddresses $id
}

function Test-FullLanguage {
    [string]$ExecutionContext.SessionState.LanguageMode -eq 'FullLanguage'
}

# full language: before Windows 10 2004 only the library has a way to do it (cfgmgr32, CM_Uninstall_DevNode).
function Remove-DeviceNode($id) {
    $code = @'
[DllImport("cfgmgr32.dll", CharSet = CharSet.Unicode)]
public static extern int CM_Locate_DevNodeW(out uint node, string id, uint flags);
[DllImport("cfgmgr32.dll")]
public static extern int CM_Uninstall_DevNode(uint node, uint flags);
'@
    $library = Add-Type -MemberDefinition $code -Name 'Devices' -Namespace 'Refloat' -PassThru
    [uint32]$node = 0
    # 1: also a device that is not there.
    if ($library::CM_Locate_DevNodeW([ref]$node, $id, 1) -ne 0) { return $false }
    $library::CM_Uninstall_DevNode($node, 0) -eq 0
}

# Takes the addresses out of the interface that belonged to this device.
function Clear-GhostAddresses($id) {
    $cleared = $false
    foreach ($network in @(Get-ChildItem -Path ('{0}\Network\{1}' -f $Control, $NetClass))) {
        if (-not $network -or $network.PSChildName -notlike '{*}') { continue }
        $connection = '{0}\Network\{1}\{2}\Connection' -f $Control, $NetClass, $network.PSChildName
        if ((Get-Value $connection 'PnpInstanceID') -ne $id) { continue }
        $path = '{0}\Tcpip\Parameters\Interfaces\{1}' -f $Services, $network.PSChildName
        if (Test-Path -Path $path) {
            foreach ($name in @('IPAddress', 'SubnetMask', 'DefaultGateway', 'DefaultGatewayMetric', 'NameServer')) {
                Remove-ItemProperty -Path $path -Name $name -ErrorAction SilentlyContinue
            }
        }
        $cleared = $true
    }
    if (-not $cleared) { Write-Log 'it has no interface: nothing holds an address' }
    $true
}
