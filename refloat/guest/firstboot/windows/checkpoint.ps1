# The stages' states, kept over restarts and power cuts; and what follows from an outcome (the tables).

$Checkpoint = $StateDir + 'checkpoint'
$States = @{}
$Attempts = @{}
$Texts = @{}
$Begun = ''
$WantsRestart = 0

# The checkpoint of an earlier start. One that is there but not whole is no checkpoint to go on from.
function Read-Checkpoint {
    foreach ($stage in @($Stages)) {
        $States[$stage.Name] = 'pending'
        $Attempts[$stage.Name] = 0
        $Texts[$stage.Name] = ''
    }
    if (-not (Test-Path -Path $Checkpoint)) { return }
    $kept = Read-Pairs $Checkpoint
    if ($kept['END'] -ne '1') { throw 'the checkpoint is damaged' }
    foreach ($stage in @($Stages)) {
        $States[$stage.Name] = $kept['STATE_' + $stage.Name]
        $Attempts[$stage.Name] = [int]$kept['ATTEMPTS_' + $stage.Name]
        $Texts[$stage.Name] = [string]$kept['TEXT_' + $stage.Name]
    }
    for ($number = 1; $number -le [int]$kept['PROBLEMS']; $number++) {
        $script:Problems += $kept['PROBLEM_' + $number]
    }
    $script:Begun = $kept['BEGUN']
    $script:WantsRestart = [int]$kept['WANTS_RESTART']
}

function Write-Checkpoint {
    $lines = @(('BEGUN={0}' -f $Begun), ('WANTS_RESTART={0}' -f $WantsRestart))
    foreach ($stage in @($Stages)) {
        $lines += 'STATE_{0}={1}' -f $stage.Name, $States[$stage.Name]
        $lines += 'ATTEMPTS_{0}={1}' -f $stage.Name, $Attempts[$stage.Name]
        $lines += 'TEXT_{0}={1}' -f $stage.Name, ($Texts[$stage.Name] -replace '[^\x20-\x7e]', '?')
    }
    $number = 0
    foreach ($problem in @($Problems)) {
        $number++
        $lines += 'PROBLEM_{0}={1}' -f $number, ($problem -replace '[^\x20-\x7e]', '?')
    }
    $lines += 'PROBLEMS={0}' -f $number
    $lines += 'END=1'
    Write-Whole $Checkpoint $lines
}

# The first stage that is pending; nothing at the end.
function Get-NextStage {
    foreach ($stage in @($Stages)) {
        if ($States[$stage.Name] -eq 'pending') { return $stage }
    }
}

function Test-TimeLeft {
    (Read-Number 'spent') -lt [int]$Plan['DEADLINE']
}

function Test-RestartLeft {
    (Read-Number 'restarts') -lt $MaxRestarts -and (Test-TimeLeft)
}

# Whether a restart that is wanted has to happen before this stage (nothing: the end): at a phase's end. What
# wanted it did so in this boot: any restart in between was as good.
function Test-RestartDue($next) {
    if (-not $WantsRestart -or $WantsRestart -ne $Boot) { return $false }
    $before = $null
    foreach ($stage in @($Stages)) {
        if ($next -and $stage.Name -eq $next.Name) { break }
        $before = $stage
    }
    $before -and (-not $next -or $next.Phase -ne $before.Phase)
}

# What follows from the outcome of the stage's attempt, written down. Gives the step: next, retry, restart.
function Complete-Attempt($stage, $result) {
    $again = [int]($Attempts[$stage.Name] -lt $MaxAttempts -and (Test-TimeLeft))
    $restart = [int](Test-RestartLeft)
    $outcome = $result.Outcome
    if ($restart -and $WantsRestart -and $WantsRestart -eq $Boot -and $WhileWanted[$outcome]) {
        $outcome = $WhileWanted[$outcome]
    }
    $decision = $Decisions['{0},{1},{2}' -f $outcome, $again, $restart]
    if (-not $decision) { throw ('unknown outcome ' + $outcome) }
    Write-Log ('{0}: {1}, {2}: {3}' -f $stage.Name, $outcome, $decision.Step, $result.Text)
    $States[$stage.Name] = $decision.State
    $Texts[$stage.Name] = $result.Text
    $script:Begun = ''
    if ($decision.WantsRestart) { $script:WantsRestart = $Boot }
    Write-Checkpoint
    $decision.Step
}

# The final word.
function Get-Verdict {
    $required = 1
    $clean = [int](@($Problems).Count -eq 0)
    foreach ($stage in @($Stages)) {
        if (@('done', 'skipped') -contains $States[$stage.Name]) { continue }
        if ($stage.Required) { $required = 0 } else { $clean = 0 }
    }
    $Verdicts['{0},{1}' -f $required, $clean]
}
