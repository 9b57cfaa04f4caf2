# Stage drivers: the staged packages become Windows' own; then the stubs that it booted with can go.

function Start-DriversStage {
    $failed = @()
    $installed = @('')
    $restart = $false
    for ($number = 1; $number -le [int]$Plan['DRIVERS']; $number++) {
        $inf = $Plan['DRIVER_{0}_INF' -f $number]
        $code = Add-Driver ($Dir + $inf)
        if ($RestartCodes -contains $code) { $restart = $true }
        if ($GoodCodes -contains $code) { $installed += $inf }
        else { $failed += '{0} ({1})' -f $Plan['DRIVER_{0}_NAME' -f $number], $code }
    }
    Write-Whole ($StateDir + 'installed') $installed
    $missing = @(Get-MissingDrivers)
    if (@($missing).Count -gt 0) {
        return New-Result 'failed' ('no working device of {0}; not installed: {1}' -f ($missing -join ', '), ($failed -join ', '))
    }
    foreach ($one in @($failed)) { Add-Problem ('driver not installed, pnputil says: ' + $one) }
    foreach ($inf in @(Remove-Stubs)) {
        # Windows takes a device that it runs from to its new driver when it starts.
        if ($inf) { $restart = $true }
    }
    if ($restart) { return New-Result 'restart' '' }
    New-Result 'done' ''
}

function Add-Driver($inf) {
    if ([int]$Plan['BUILD'] -ge 14393) {
        return Invoke-Program ($System + 'pnputil.exe') @('/add-driver', ('"' + $inf + '"'), '/install')
    }
    Invoke-Program ($System + 'pnputil.exe') @('-i', '-a', ('"' + $inf + '"'))
}

# The services without which nothing works, of the disk that boots and of the adapters, that drive no device.
# A device that was just installed needs its time.
function Get-MissingDrivers {
    $needed = @($Plan['BOOT_DRIVER'], $Plan['NIC_DRIVER']) | Where-Object { $_ }
    if (-not $needed) { return }
    $null = Wait-For 120 { @(Select-Missing $needed).Count -eq 0 }
    Select-Missing $needed
}

function Select-Missing($needed) {
    $working = @(Get-VirtioDevices | Where-Object { $_.ConfigManagerErrorCode -eq 0 } | ForEach-Object { $_.Service })
    @($needed) | Where-Object { $working -notcontains $_ }
}

# Removes the packages that were made up offline so that Windows could boot, of every driver that is installed
# now. Gives those that have to stay yet.
function Remove-Stubs {
    $path = $StateDir + 'installed'
    if (-not (Test-Path -Path $path)) { return }
    foreach ($file in @(Get-Content -Path $path)) {
        if (-not $file) { continue }
        $inf = @($file -split '\\')[-1]
        if (-not (Remove-Stub $inf)) { $inf }
    }
}

# Whether the package of this INF is gone ("viostor.inf_amd64_0000000000000000"). It stays as long as a device is
# bound to it.
function Remove-Stub($inf) {
    $label = '{0}_{1}_0000000000000000' -f $inf, $Plan['ARCHITECTURE']
    $database = 'HKLM:\SYSTEM\DriverDatabase'
    if (-not (Test-Path -Path ($database + '\DriverPackages\' + $label))) { return $true }
    if (@(Get-BoundInfs) -contains $inf) {
        Write-Log ($inf + ' is still bound to the package that Windows booted with')
        return $false
    }
    foreach ($device in @(Get-ChildItem -Path ($database + '\DeviceIds\PCI') | Where-Object { $_.PSChildName -like 'VEN_1AF4*' })) {
        if ($device) { Remove-ItemProperty -Path $device.PSPath -Name $inf -ErrorAction SilentlyContinue }
    }
    Remove-Item -Path ($database + '\DriverInfFiles\' + $inf) -Recurse -Force -ErrorAction SilentlyContinue
    Remove-Item -Path ($database + '\DriverPackages\' + $label) -Recurse -Force -ErrorAction SilentlyContinue
    -not (Test-Path -Path ($database + '\DriverPackages\' + $label))
}

# The INF files that devices of virtio are bound to: "oem5.inf".
function Get-BoundInfs {
    foreach ($device in @(Get-VirtioDevices)) {
        if (-not $device) { continue }
        $class = Get-Value ('HKLM:\SYSTEM\CurrentControlSet\Enum\' + $device.DeviceID) 'Driver'
        if ($class) { Get-Value ($Control + '\Class\' + $class) 'InfPath' }
    }
}
