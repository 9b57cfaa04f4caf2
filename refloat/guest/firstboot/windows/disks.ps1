# Stage disks: the planned disks come online, and no other.

function Start-DisksStage {
    $wrong = @()
    $null = Wait-For 60 { @(Get-MissingDisks).Count -eq 0 }
    for ($number = 1; $number -le [int]$Plan['DISKS']; $number++) {
        $serial = $Plan['DISK_{0}_SERIAL' -f $number]
        $shared = $Plan['DISK_{0}_SHARED' -f $number] -eq '1'
        $text = Set-DiskOnline $serial $shared
        if ($text) { $wrong += '{0}: {1}' -f $serial, $text }
    }
    if (@($wrong).Count -gt 0) { return New-Result 'failed' ($wrong -join '; ') }
    $lost = @(Get-LostLetters)
    if (@($lost).Count -gt 0) { Add-Problem ('drive letters that are not there: ' + ($lost -join ' ')) }
    if ([int]$Plan['DISKS'] -eq 0) { return New-Result 'skipped' 'no disks to bring online' }
    New-Result 'done' ''
}

# What is wrong with the disk; nothing when it is online and can be written.
function Set-DiskOnline($serial, $shared) {
    $found = @(Find-Disks $serial)
    if (@($found).Count -ne 1) { return 'disks with this serial number: {0}' -f @($found).Count }
    $disk = $found[0]
    if ((Test-Clustered $disk.Index) -and -not $shared) {
        return 'it belongs to a cluster: the policy does not allow to bring it online'
    }
    if (Test-Command 'Set-Disk') { return Set-DiskByCommand $disk.Index }
    Set-DiskByDiskpart $disk.Index
}

function Get-MissingDisks {
    for ($number = 1; $number -le [int]$Plan['DISKS']; $number++) {
        $serial = $Plan['DISK_{0}_SERIAL' -f $number]
        if (@(Find-Disks $serial).Count -eq 0) { $serial }
    }
}

function Find-Disks($serial) {
    Get-WmiObject -Class Win32_DiskDrive | Where-Object { ([string]$_.SerialNumber -replace '\s', '') -eq $serial }
}

# A disk of a cluster. On a node of one, what nobody can tell is taken for clustered.
function Test-Clustered($number) {
    if (-not (Test-Path -Path ($Services + '\ClusSvc'))) { return $false }
    if ((Test-Path -Path 'HKLM:\Cluster') -and (Test-Command 'Get-Disk')) { return Test-ClusteredByCommand $number }
    $true
}

# since 3.0
function Test-ClusteredByCommand($number) {
    [bool](Get-Disk -Number $number).IsClustered
}

# since 3.0: two calls, since Set-Disk takes one of the two at a time.
function Set-DiskByCommand($number) {
    $disk = Get-Disk -Number $number
    if ($disk.IsOffline) { Set-Disk -Number $number -IsOffline $false }
    $disk = Get-Disk -Number $number
    if ($disk.IsReadOnly) { Set-Disk -Number $number -IsReadOnly $false }
    $disk = Get-Disk -Number $number
    if ($disk.IsOffline -or $disk.IsReadOnly) { 'it is still offline or read-only' }
}

function Set-DiskByDiskpart($number) {
    $orders = $StateDir + 'diskpart'
    $lines = @(('select disk {0}' -f $number), 'online disk noerr', 'attributes disk clear readonly noerr')
    Write-Whole $orders $lines
    $code = Invoke-Program ($System + 'diskpart.exe') @('/s', ('"' + $orders + '"'))
    if ($code -ne 0) { 'diskpart ended with {0}' -f $code }
}

function Get-LostLetters {
    for ($number = 1; $number -le [int]$Plan['LETTERS']; $number++) {
        $letter = $Plan['LETTER_{0}_NAME' -f $number] + ':'
        $data = $Plan['LETTER_{0}_DATA' -f $number]
        if ($letter -ne $env:SystemDrive -and -not (Test-Letter $letter $data)) { $letter }
    }
}
