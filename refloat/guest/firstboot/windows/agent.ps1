# Stage agent: the guest agent of QEMU, whose port comes with the driver vioserial.

function Start-AgentStage {
    if (-not $Plan['AGENT']) { return New-Result 'skipped' 'the driver set has no guest agent' }
    if (Test-Agent) { return New-Result 'done' 'it runs already' }
    $installer = '"' + $Dir + $Plan['AGENT'] + '"'
    $log = '"' + $Dir + 'agent.log"'
    $code = Invoke-Program ($System + 'msiexec.exe') @('/i', $installer, '/qn', '/norestart', '/l*v', $log)
    # 1618: another installation is under way; 1603 is often the same. The stage is repeated in a while.
    if ($GoodCodes -notcontains $code) { return New-Result 'failed' ('msiexec ended with {0}' -f $code) }
    if (Wait-For 60 { Test-Agent }) { return New-Result 'done' '' }
    if ($RestartCodes -contains $code) { return New-Result 'restart' 'it starts after the restart' }
    New-Result 'failed' 'it is installed, but does not run'
}

function Test-Agent {
    $service = Get-Service -Name 'QEMU-GA' -ErrorAction SilentlyContinue
    if (-not $service) { return $false }
    if ($service.Status -ne 'Running') { Start-Service -Name 'QEMU-GA' -ErrorAction SilentlyContinue }
    (Get-Service -Name 'QEMU-GA').Status -eq 'Running'
}
