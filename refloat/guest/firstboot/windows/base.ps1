# Finishes the recovery of a Windows guest: made of several parts, run by firstboot.cmd as one file.
#
# It has to run on PowerShell 2.0 to 5.1, also where a policy allows the constrained language only: no
# classes of .NET, no commands that came later but in functions marked "since", which are called only after
# a look whether they are there. Nothing that Windows says in the user's language is looked at.

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$Dir = $env:REFLOAT_DIR
$StateDir = $Dir + 'state\'
$System = $env:SystemRoot + '\System32\'
$Key = 'HKLM:\SOFTWARE\Refloat'
$Control = 'HKLM:\SYSTEM\CurrentControlSet\Control'
$Services = 'HKLM:\SYSTEM\CurrentControlSet\Services'
$NetClass = '{4d36e972-e325-11ce-bfc1-08002be10318}'
# What an installer's exit code means: done; nothing to do; done after a restart (twice).
$GoodCodes = @(0, 259, 3010, 1641)
$RestartCodes = @(3010, 1641)
$Problems = @()

function Write-Log($text) {
    $line = '{0} script: {1}' -f (Get-Date -Format 's'), ($text -replace '[^\x20-\x7e]', '?')
    Add-Content -Path ($Dir + 'firstboot.log') -Value $line -Encoding ASCII
}

# What is wrong, in words: every report lists it, and it keeps the recovery from "succeeded".
function Add-Problem($text) {
    Write-Log ('problem: ' + $text)
    if (@($script:Problems).Count -lt 50 -and $script:Problems -notcontains $text) { $script:Problems += $text }
}

# A file as a whole or not at all: cmd.exe's move replaces in one step, Move-Item deletes first.
# The launcher may just be reading it.
function Write-Whole($path, $lines) {
    Set-Content -Path ($path + '.new') -Value $lines -Encoding ASCII
    for ($try = 1; $try -le 5; $try++) {
        & ($System + 'cmd.exe') /d /c move /y ($path + '.new') $path | Out-Null
        if ($LASTEXITCODE -eq 0) { return }
        Start-Sleep -Milliseconds 200
    }
    throw ('could not write ' + $path)
}

# KEY=VALUE lines.
function Read-Pairs($path) {
    $found = @{}
    if (Test-Path -Path $path) {
        foreach ($line in @(Get-Content -Path $path)) {
            $name, $value = $line -split '=', 2
            if ($name) { $found[$name] = [string]$value }
        }
    }
    $found
}

# The number in a file of the launcher's; 0 where there is none. The launcher may just be replacing it.
function Read-Number($name) {
    $path = $StateDir + $name
    for ($try = 1; $try -le 5; $try++) {
        if (-not (Test-Path -Path $path)) { return 0 }
        try { return [int](@(Get-Content -Path $path)[0]) }
        catch { Start-Sleep -Milliseconds 200 }
    }
    throw ('could not read ' + $path)
}

# The numbered entries of a list in the plan: Get-Listed 'DISK' 'DISKS' 'SERIAL' gives DISK_1_SERIAL, ...
function Get-Listed($one, $many, $field) {
    $count = [int]$Plan[$many]
    for ($number = 1; $number -le $count; $number++) {
        if ($field) { $Plan['{0}_{1}_{2}' -f $one, $number, $field] } else { $Plan['{0}_{1}' -f $one, $number] }
    }
}

function Test-Command($name) {
    [bool](Get-Command -Name $name -ErrorAction SilentlyContinue)
}

# A value of the registry; nothing where it is not there.
function Get-Value($path, $name) {
    $item = Get-ItemProperty -Path $path -Name $name -ErrorAction SilentlyContinue
    if ($item) { $item.$name }
}

function Set-Value($path, $name, $kind, $value) {
    if (-not (Test-Path -Path $path)) { New-Item -Path $path -Force | Out-Null }
    if ($kind -eq 'MultiString' -and @($value).Count -eq 0) {
        Remove-ItemProperty -Path $path -Name $name -ErrorAction SilentlyContinue
        return
    }
    New-ItemProperty -Path $path -Name $name -PropertyType $kind -Value $value -Force | Out-Null
}

# Runs a program to its end and gives its exit code. It is killed with the script when the stage takes too long.
function Invoke-Program($file, $arguments) {
    Write-Log ('run: {0} {1}' -f $file, ($arguments -join ' '))
    $process = Start-Process -FilePath $file -ArgumentList $arguments -WindowStyle Hidden -Wait -PassThru
    Write-Log ('exit code: {0}' -f $process.ExitCode)
    $process.ExitCode
}

# Waits until the block gives something that is true, at most so many seconds; says whether it did.
function Wait-For($seconds, $block) {
    $end = (Get-Date) + (New-TimeSpan -Seconds $seconds)
    # The guest's clock may jump: the number of looks is bounded, too.
    for ($look = 0; $look -le $seconds; $look += 3) {
        if (& $block) { return $true }
        if ((Get-Date) -gt $end) { break }
        Start-Sleep -Seconds 3
    }
    $false
}

# What a stage says of itself at its end.
function New-Result($outcome, $text) {
    @{ Outcome = $outcome; Text = [string]$text }
}
