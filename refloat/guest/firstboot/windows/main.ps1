# Goes through the stages, restarts Windows where one needs it, and comes to an end in every case.

function Start-Stage($name) {
    switch ($name) {
        'ready' { Start-ReadyStage }
        'drivers' { Start-DriversStage }
        'disks' { Start-DisksStage }
        'agent' { Start-AgentStage }
        'stale' { Start-StaleStage }
        'network' { Start-NetworkStage }
        'verify' { Start-VerifyStage }
    }
}

# One attempt at the stage: counted before it begins, so that one that ends the script is counted, too.
function Start-Attempt($stage) {
    $script:Begun = $stage.Name
    $Attempts[$stage.Name] = $Attempts[$stage.Name] + 1
    Write-Checkpoint
    # From here on this start was not in vain, and the launcher ends it after the stage's time.
    Write-Whole ($StateDir + 'silent') @('0')
    Write-Whole ($StateDir + 'watch') @('{0} {1} {2}' -f $stage.Limit, $stage.Name, $Attempts[$stage.Name])
    Write-Log ('{0}: attempt {1}' -f $stage.Name, $Attempts[$stage.Name])
    $result = $null
    try { $result = @(Start-Stage $stage.Name)[-1] }
    catch { $result = New-Result 'failed' $_.Exception.Message }
    if ($result -isnot [hashtable]) { $result = New-Result 'failed' 'it gave no result' }
    $result
}

# What is to come next: 'restart' or 'end'.
function Start-Stages {
    if ($Begun) {
        $stage = $Stages | Where-Object { $_.Name -eq $Begun }
        $step = Complete-Attempt $stage (New-Result 'died' 'it was interrupted')
    }
    while ($true) {
        $stage = Get-NextStage
        if (Test-RestartDue $stage) {
            if (Test-RestartLeft) { return 'restart' }
            Add-Problem 'a restart is still needed, but Windows was restarted too often, or the time was over'
            $script:WantsRestart = 0
        }
        if (-not $stage) { return 'end' }
        if (-not (Test-TimeLeft)) { Stop-Stages; return 'end' }
        $step = Complete-Attempt $stage (Start-Attempt $stage)
        if ($step -eq 'restart') { return 'restart' }
        if ($step -eq 'retry') { Start-Sleep -Seconds (5 * $Attempts[$stage.Name]) }
    }
}

# The time is over: what is not done will not be.
function Stop-Stages {
    foreach ($stage in @($Stages)) {
        if ($States[$stage.Name] -ne 'pending') { continue }
        $States[$stage.Name] = 'failed'
        $Texts[$stage.Name] = 'the time was over'
    }
    Write-Checkpoint
}

# The end, in this order: the last report is on the disk with both of its ends, so that the launcher can
# finish what is interrupted here; everything staged is removed; the report goes out until it is heard.
function Complete-Recovery {
    $verdict = Get-Verdict
    Write-Log ('the end: ' + $verdict)
    $report = New-Report $verdict 'final'
    # A look may have found something.
    if ($verdict -ne (Get-Verdict)) {
        $verdict = Get-Verdict
        $report = New-Report $verdict 'final'
    }
    $left = @($Problems) + 'not everything that was staged could be removed'
    Write-Whole ($StateDir + 'final.clean') (Get-Lines $report $Problems $true)
    Write-Whole ($StateDir + 'final.left') (Get-Lines $report $left $false)
    Save-Status $verdict 'final' $report
    Write-Whole ($StateDir + 'finished') @($verdict)
    $seconds = [int]$Plan['DEADLINE'] - (Read-Number 'spent')
    if ($seconds -lt 60) { $seconds = 60 }
    Write-Whole ($StateDir + 'watch') @('{0} final 1' -f ($seconds + 60))
    & ($System + 'cmd.exe') /d /c ($Dir + 'firstboot.cmd') clean | Out-Null
    $lines = Get-Lines $report $Problems $true
    if ($LASTEXITCODE -ne 0) { $lines = Get-Lines $report $left $false }
    Send-Lines $lines (Read-Number 'sequence') $seconds
    Write-Whole ($StateDir + 'delivered') @('1')
    Write-Whole ($StateDir + 'next') @('done')
}

function Start-Recovery {
    Write-Whole ($StateDir + 'watch') @('300 begin {0}' -f (Read-Number 'runs'))
    Read-Checkpoint
    $next = Get-NextStage
    if ($next) { Send-Report 'running' $next.Name 10 }
    if ((Start-Stages) -eq 'restart') {
        Send-Report 'awaiting_reboot' 'restart' 20
        Write-Whole ($StateDir + 'next') @('restart')
    } else { Complete-Recovery }
}

Write-Whole ($StateDir + 'pid') @([string]$PID)
if (Test-Path -Path ($StateDir + 'finished')) { exit 0 }
$Plan = Read-Pairs ($Dir + 'plan.txt')
$Secrets = Read-Pairs ($Dir + 'secrets.txt')
$Delivery = Read-Pairs ($Dir + 'delivery.txt')
$Boot = Read-Number 'boots'
Write-Log ('PowerShell {0}, boot {1}' -f $Host.Version, $Boot)
try { Start-Recovery }
catch { Write-Log ('the script ended: ' + $_.Exception.Message); exit 1 }
exit 0
