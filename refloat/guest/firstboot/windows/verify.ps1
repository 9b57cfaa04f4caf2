# Stage verify: what was to be is so, by Windows' own word.

function Start-VerifyStage {
    $wrong = @(Get-NetworkFaults) + @(Get-DiskFaults) | Where-Object { $_ }
    foreach ($fault in @(Get-DeviceFaults)) {
        if ($fault) { Add-Problem $fault }
    }
    foreach ($inf in @(Remove-Stubs)) {
        if ($inf) { Add-Problem ('the package that Windows booted with is still in use: ' + $inf) }
    }
    if ($Plan['AGENT'] -and -not (Test-Agent)) { Add-Problem 'the guest agent does not run' }
    if ($wrong) { return New-Result 'failed' (@($wrong) -join '; ') }
    New-Result 'done' ''
}

# Each planned adapter is there and linked; one that was rewritten has what it shall have.
function Get-NetworkFaults {
    for ($number = 1; $number -le [int]$Plan['NICS']; $number++) {
        $nic = Get-Nic $number
        if (-not (Wait-For 60 { Test-Linked $nic })) { '{0} is not there or not linked' -f $nic.Mac; continue }
        $difference = Get-Difference $nic
        if ($difference) { '{0}: {1}' -f $nic.Mac, $difference; continue }
        if ($nic.Mode -eq 'dhcp' -and -not (Wait-For 60 { Test-Addressed $nic })) { '{0} got no address by DHCP' -f $nic.Mac }
    }
}

function Test-Linked($nic) {
    $adapter = Find-Adapter $nic.Mac
    $adapter -and $adapter.NetConnectionStatus -eq 2
}

function Test-Addressed($nic) {
    @(Get-Addresses (Get-Configuration (Find-Adapter $nic.Mac))).Count -gt 0
}

function Get-DiskFaults {
    for ($number = 1; $number -le [int]$Plan['DISKS']; $number++) {
        $serial = $Plan['DISK_{0}_SERIAL' -f $number]
        if (@(Find-Disks $serial).Count -ne 1) { 'the disk {0} is not there' -f $serial }
        elseif ((Test-Command 'Get-Disk') -and (Test-OfflineByCommand $serial)) { 'the disk {0} is offline' -f $serial }
    }
}

# since 3.0
function Test-OfflineByCommand($serial) {
    [bool](Get-Disk -Number (@(Find-Disks $serial)[0].Index)).IsOffline
}

function Get-DeviceFaults {
    foreach ($device in @(Get-VirtioDevices)) {
        if (-not $device -or $device.ConfigManagerErrorCode -eq 0) { continue }
        'the device {0} does not work: code {1}' -f $device.DeviceID, $device.ConfigManagerErrorCode
    }
}
