# Reports: one JSON line each, sent until it is acknowledged where a channel can be read, else repeated.

$Acknowledged = 0
$Unsent = @()

# Rises over all boots; on the disk before a report goes out. The launcher starts each boot at a new thousand.
function New-Sequence {
    $sequence = (Read-Number 'sequence') + 1
    Write-Whole ($StateDir + 'sequence') @([string]$sequence)
    $sequence
}

function Get-StagesJson {
    $listed = @()
    foreach ($stage in @($Stages)) {
        $name = $stage.Name
        $fields = @(('"name":"{0}","state":"{1}"' -f $name, $States[$name]))
        $fields += '"required":{0},"attempts":{1}' -f (ConvertTo-Flag $stage.Required), $Attempts[$name]
        $fields += '"text":' + (ConvertTo-Quoted $Texts[$name])
        $listed += '{' + ($fields -join ',') + '}'
    }
    '[' + ($listed -join ',') + ']'
}

# What a look at the guest gives, as fields of JSON. A look that fails is a problem, and no reason to be silent.
function Get-FactsJson {
    $fields = @()
    foreach ($look in @($Looks)) {
        try { $fields += & $look.Block }
        catch { Add-Problem ('could not look at {0}: {1}' -f $look.Name, $_.Exception.Message) }
    }
    $fields -join ','
}

$Looks = @(
    @{ Name = 'the system'; Block = { Get-SystemJson } },
    @{ Name = 'drive letters'; Block = { '"mounts":' + (Get-MountsJson) } },
    @{ Name = 'adapters'; Block = { '"nics":' + (Get-NicsJson) } },
    @{ Name = 'the gateway'; Block = { Get-GatewayJson 'gateway' $false } },
    @{ Name = 'the IPv6 gateway'; Block = { Get-GatewayJson 'gateway6' $true } },
    @{ Name = 'name servers'; Block = { Get-DnsJson } },
    @{ Name = 'drivers'; Block = { '"drivers":' + (Get-DriversJson) } }
)

function Get-SystemJson {
    $windows = Get-WmiObject -Class Win32_OperatingSystem
    $started = $windows.LastBootUpTime -replace '\D.*$', ''
    $fields = @(('"boot_id":"boot-{0}-{1}"' -f $Boot, $started))
    $fields += '"uptime":' + (Get-Uptime $windows)
    $fields += '"root_device":' + (ConvertTo-Quoted $env:SystemDrive)
    $fields += '"kernel":' + (ConvertTo-Quoted $windows.Version)
    $fields -join ','
}

# One report without its secrets and its end. Where Windows cannot be asked, what a report must have is made up
# for: the boot by the launcher's count.
function New-Report($status, $stage) {
    $facts = Get-FactsJson
    if ($facts -notlike '*"uptime":*') { $facts = ('"boot_id":"boot-{0}","uptime":{1},' -f $Boot, (Read-Number 'spent')) + $facts }
    $fields = @(('"job":{0},"seq":{1}' -f (ConvertTo-Quoted $Plan['JOB']), (New-Sequence)))
    $fields += '"stage":' + (ConvertTo-Quoted $stage)
    $fields += '"status":' + (ConvertTo-Quoted $status)
    $fields += '"system_state":' + (ConvertTo-Quoted $status)
    $fields += '"reboots":' + (Read-Number 'restarts')
    $fields += '"stages":' + (Get-StagesJson)
    $fields += $facts -replace ',$', ''
    $fields -join ','
}

# The lines of a report as they go out: an empty one first, it ends what an interrupted write left.
function Get-Lines($report, $wrong, $cleaned) {
    $secret = '"token":{0},"nonce":{1}' -f (ConvertTo-Quoted $Secrets['TOKEN']), (ConvertTo-Quoted $Secrets['NONCE'])
    $rest = '"problems":{0},"cleaned":{1}' -f (ConvertTo-QuotedList $wrong), (ConvertTo-Flag $cleaned)
    @('', ('{{"v":1,{0},{1},{2}}}' -f $secret, $report, $rest))
}

# What stays in the guest: the status for whoever looks, and the last report without its secrets.
function Save-Status($status, $stage, $report) {
    $words = @($status, $stage, $Plan['JOB'], (Read-Number 'restarts'))
    Write-Whole ($Dir + 'status.txt') @(('STATUS={0};STAGE={1};JOB={2};RESTARTS={3}' -f $words) -split ';')
    $rest = '"problems":{0}' -f (ConvertTo-QuotedList $Problems)
    Write-Whole ($Dir + 'report.json') @('{"v":1,' + $report + ',' + $rest + '}')
    try {
        Set-Value $Key 'Status' 'String' $status
        Set-Value $Key 'Stage' 'String' $stage
        Set-Value $Key 'Job' 'String' $Plan['JOB']
        Set-Value $Key 'Attempt' 'DWord' ([int]$Attempts[$stage])
        Set-Value $Key 'Restarts' 'DWord' (Read-Number 'restarts')
        Set-Value $Key 'Problems' 'MultiString' ([string[]]@($Problems))
    } catch { Add-Problem ('the status could not be written to the registry: ' + $_.Exception.Message) }
}

# Sends a report now, and again for so many seconds until it was acknowledged. One that was not is not kept:
# the next says all that it did.
function Send-Report($status, $stage, $seconds) {
    $report = New-Report $status $stage
    Save-Status $status $stage $report
    Send-Lines (Get-Lines $report $Problems $false) (Read-Number 'sequence') $seconds
}

function Send-Lines($lines, $sequence, $seconds) {
    $path = $StateDir + 'outgoing'
    Write-Whole $path $lines
    $script:Acknowledged = 0
    $sent = Wait-For $seconds { Send-Once $path $lines $sequence; $script:Acknowledged -ge $sequence }
    Write-Log ('report {0}: {1}' -f $sequence, $(if ($sent) { 'acknowledged' } else { 'sent' }))
}

# Once to every channel; what fails here fails again or does not, and is never a reason to stop.
function Send-Once($path, $lines, $sequence) {
    if ($Delivery['SERIAL']) {
        $null = Invoke-Bounded ('type "{0}" >"\\.\{1}"' -f $path, $Delivery['SERIAL']) 10
    }
    if ($Delivery['CHANNEL']) {
        $null = Invoke-Bounded ('"{0}firstboot.cmd" exchange "{1}"' -f $Dir, $path) 8
        $answer = @(Get-Content -Path ($StateDir + 'ack') -ErrorAction SilentlyContinue) -join ' '
        Read-Answer $answer
    }
    if ($Delivery['CALLBACK'] -and (Test-Command 'Invoke-WebRequest')) {
        try { Read-Answer (Send-Callback $lines[1]) } catch { Write-Log ('callback: ' + $_.Exception.Message) }
    }
}

# "ack N" stands for all reports up to N.
function Read-Answer($text) {
    if ($text -match '\back (\d{1,9})\b') {
        $number = [int]$Matches[1]
        if ($number -gt $script:Acknowledged) { $script:Acknowledged = $number }
    }
}

# since 3.0: PowerShell 2.0 has no web requests of its own, and its .NET no TLS 1.2.
function Send-Callback($line) {
    $headers = @{ Authorization = 'Bearer ' + $Secrets['TOKEN'] }
    $answer = Invoke-WebRequest -Uri $Delivery['CALLBACK'] -Method Post -Body $line -ContentType 'application/json' -Headers $headers -UseBasicParsing -TimeoutSec 15
    [string]$answer.Content
}

# A command of cmd.exe, ended with its children after so many seconds: a device may make it wait for ever.
function Invoke-Bounded($command, $seconds) {
    $process = Start-Process -FilePath ($System + 'cmd.exe') -ArgumentList ('/d /c "{0}"' -f $command) -WindowStyle Hidden -PassThru
    $end = (Get-Date) + (New-TimeSpan -Seconds $seconds)
    for ($look = 0; $look -lt $seconds * 2; $look++) {
        if ($process.HasExited -or (Get-Date) -gt $end) { break }
        Start-Sleep -Milliseconds 500
    }
    if (-not $process.HasExited) {
        & ($System + 'taskkill.exe') /f /t /pid $process.Id | Out-Null
    }
    $process.HasExited
}
