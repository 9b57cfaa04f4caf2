# Stage ready: Windows can be worked with.

function Start-ReadyStage {
    $waiting = @('RpcSs', 'PlugPlay', 'Winmgmt')
    $up = Wait-For 240 {
        foreach ($name in @($waiting)) {
            $service = Get-Service -Name $name -ErrorAction SilentlyContinue
            if (-not $service -or $service.Status -ne 'Running') { return $false }
        }
        $true
    }
    if (-not $up) { return New-Result 'failed' 'RpcSs, PlugPlay or Winmgmt does not run' }
    if (Test-Path -Path ($Services + '\Winmgmt')) { $null = Get-WmiObject -Class Win32_OperatingSystem }
    if (Test-RestartPending) {
        # Drivers may be refused as long as updates wait for it. Once: the others need restarts, too.
        if ($Attempts['ready'] -lt 2) { return New-Result 'again' 'updates wait for a restart' }
        Add-Problem 'updates still wait for a restart'
    }
    New-Result 'done' ''
}

# Renames that wait (PendingFileRenameOperations) are everyday, and keep nothing from working.
function Test-RestartPending {
    $version = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion'
    (Test-Path -Path ($version + '\Component Based Servicing\RebootPending')) -or
        (Test-Path -Path ($version + '\WindowsUpdate\Auto Update\RebootRequired'))
}
