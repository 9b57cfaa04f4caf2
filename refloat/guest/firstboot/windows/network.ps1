# Stage network: each planned adapter gets what the plan says. preserve: nothing. dhcp: DHCP. static: the
# source's addresses or others.

function Start-NetworkStage {
    $wrong = @()
    $again = @()
    $rewritten = 0
    $patience = 300
    for ($number = 1; $number -le [int]$Plan['NICS']; $number++) {
        if ($Plan['NIC_{0}_MODE' -f $number] -eq 'preserve') { continue }
        $rewritten++
        $nic = Get-Nic $number
        # Where one never comes, the others have come by then.
        if (-not (Wait-For $patience { [bool](Find-Adapter $nic.Mac) })) { $patience = 15 }
        $adapter = Find-Adapter $nic.Mac
        if (-not $adapter) { $wrong += 'there is no adapter (or several) with MAC ' + $nic.Mac; continue }
        if (Test-AsPlanned $nic) { continue }
        Set-Nic $nic $adapter
        if (Wait-For 60 { Test-AsPlanned $nic }) { continue }
        # The last way needs a restart: what Windows reads when it starts.
        Set-NicInRegistry $nic (Get-Configuration $adapter)
        $again += $nic.Mac
    }
    if (@($wrong).Count -gt 0) { return New-Result 'failed' ($wrong -join '; ') }
    if (@($again).Count -gt 0) { return New-Result 'again' ('written to the registry: ' + ($again -join ', ')) }
    if ($rewritten -eq 0) { return New-Result 'skipped' 'the network is left alone' }
    Remove-OldRoutes
    New-Result 'done' ''
}

# What the plan says of an adapter. Addresses: "ADDRESS PREFIX MASK"; gateways: "ADDRESS METRIC".
function Get-Nic($number) {
    $prefix = 'NIC_{0}_' -f $number
    $nic = @{ Mac = $Plan[$prefix + 'MAC']; Mode = $Plan[$prefix + 'MODE'] }
    $nic['Addresses'] = @(Get-Listed ($prefix + 'ADDRESS') ($prefix + 'ADDRESSES'))
    $nic['Addresses6'] = @(Get-Listed ($prefix + 'ADDRESS6') ($prefix + 'ADDRESSES6'))
    $nic['Gateways'] = @(Get-Listed ($prefix + 'GATEWAY') ($prefix + 'GATEWAYS'))
    $nic['Gateways6'] = @(Get-Listed ($prefix + 'GATEWAY6') ($prefix + 'GATEWAYS6'))
    $nic['OldGateways'] = @(Get-Listed ($prefix + 'OLD_GATEWAY') ($prefix + 'OLD_GATEWAYS'))
    $nic['Dns'] = @(([string]$Plan[$prefix + 'DNS']) -split ',' | Where-Object { $_ })
    $nic['Dns6'] = @(([string]$Plan[$prefix + 'DNS6']) -split ',' | Where-Object { $_ })
    $nic['Suffix'] = [string]$Plan[$prefix + 'SUFFIX']
    $nic['Metric'] = [int]$Plan[$prefix + 'METRIC']
    $nic
}

# Whether Windows itself says that the adapter has what was planned.
function Test-AsPlanned($nic) {
    -not (Get-Difference $nic)
}

# What differs from the plan, in words; nothing when nothing does.
function Get-Difference($nic) {
    $adapter = Find-Adapter $nic.Mac
    if (-not $adapter) { return 'there is no adapter with this MAC' }
    $now = Get-Configuration $adapter
    if ($nic.Mode -eq 'preserve') { return }
    if ($nic.Mode -eq 'dhcp' -and -not $now.DHCPEnabled) { return 'DHCP is off' }
    if ($nic.Mode -ne 'dhcp' -and $now.DHCPEnabled) { return 'DHCP is on' }
    $has = @(Get-Addresses $now)
    foreach ($address in @($nic.Addresses + $nic.Addresses6)) {
        $parts = $address -split ' '
        if ($has -notcontains ('{0}/{1}' -f $parts[0], $parts[1])) { return 'it lacks ' + $parts[0] }
    }
    foreach ($gateway in @($nic.Gateways + $nic.Gateways6)) {
        $parts = $gateway -split ' '
        if (@($now.DefaultIPGateway) -notcontains $parts[0]) { return 'it lacks the gateway ' + $parts[0] }
    }
    foreach ($server in @($nic.Dns)) {
        if (@($now.DNSServerSearchOrder) -notcontains $server) { return 'it lacks the name server ' + $server }
    }
}

# By Windows' own commands, or by netsh where there are none. What fails shows in what the adapter has then.
function Set-Nic($nic, $adapter) {
    try {
        if (Test-Command 'New-NetIPAddress') { Set-NicByCommand $nic $adapter.InterfaceIndex }
        else { Set-NicByNetsh $nic $adapter.InterfaceIndex (Get-Configuration $adapter) }
    } catch { Write-Log ('{0}: {1}' -f $nic.Mac, $_.Exception.Message) }
}

function Set-NicByNetsh($nic, $index, $configuration) {
    if ($nic.Mode -eq 'dhcp') {
        Invoke-Netsh @('ipv4', 'set', 'address', "name=$index", 'source=dhcp')
        Invoke-Netsh @('ipv4', 'set', 'dnsservers', "name=$index", 'source=dhcp')
        Set-NamesByNetsh $nic $index $configuration
        return
    }
    $verb = 'set'
    foreach ($address in @($nic.Addresses)) {
        $ip, $prefix, $mask = $address -split ' '
        $words = @('ipv4', $verb, 'address', "name=$index", "address=$ip", "mask=$mask")
        if ($verb -eq 'set') { $words += @('source=static', 'gateway=none') }
        Invoke-Netsh $words
        $verb = 'add'
    }
    foreach ($gateway in @($nic.Gateways)) {
        $ip, $metric = $gateway -split ' '
        Invoke-Netsh @('ipv4', 'add', 'address', "name=$index", "gateway=$ip", "gwmetric=$metric")
    }
    if ($nic.Metric -gt 0) { Invoke-Netsh @('ipv4', 'set', 'interface', "interface=$index", ('metric={0}' -f $nic.Metric)) }
    Set-SixByNetsh $nic $index
    Set-NamesByNetsh $nic $index $configuration
}

# Name servers and the suffix; without any in the plan, what DHCP says stays.
function Set-NamesByNetsh($nic, $index, $configuration) {
    $verb = 'set'
    foreach ($server in @($nic.Dns)) {
        $words = @('ipv4', $verb, 'dnsservers', "name=$index", "address=$server", 'validate=no')
        if ($verb -eq 'set') { $words += 'source=static' }
        Invoke-Netsh $words
        $verb = 'add'
    }
    foreach ($server in @($nic.Dns6)) { Invoke-Netsh @('ipv6', 'add', 'dnsservers', "name=$index", "address=$server", 'validate=no') }
    if ($nic.Suffix) { $null = Invoke-WmiMethod -InputObject $configuration -Name 'SetDNSDomain' -ArgumentList $nic.Suffix }
}

function Set-SixByNetsh($nic, $index) {
    foreach ($address in @($nic.Addresses6)) {
        $ip, $prefix = $address -split ' '
        Invoke-Netsh @('ipv6', 'add', 'address', "interface=$index", "address=$ip/$prefix")
    }
    foreach ($gateway in @($nic.Gateways6)) {
        $ip, $metric = $gateway -split ' '
        Invoke-Netsh @('ipv6', 'add', 'route', 'prefix=::/0', "interface=$index", "nexthop=$ip")
    }
}

function Invoke-Netsh($words) {
    & ($System + 'netsh.exe') interface $words | Out-Null
    Write-Log ('netsh interface {0}: {1}' -f ($words -join ' '), $LASTEXITCODE)
}

# Where the DHCP client does not run, or no command works: the values themselves, read at the next start.
function Set-NicInRegistry($nic, $configuration) {
    $path = '{0}\Tcpip\Parameters\Interfaces\{1}' -f $Services, $configuration.SettingID
    Set-Value $path 'NameServer' 'String' ($nic.Dns -join ',')
    if ($nic.Suffix) { Set-Value $path 'Domain' 'String' $nic.Suffix }
    if ($nic.Mode -eq 'dhcp') { Set-Value $path 'EnableDHCP' 'DWord' 1; return }
    Set-Value $path 'EnableDHCP' 'DWord' 0
    Set-Value $path 'IPAddress' 'MultiString' ([string[]]@(Get-Column $nic.Addresses 0))
    Set-Value $path 'SubnetMask' 'MultiString' ([string[]]@(Get-Column $nic.Addresses 2))
    Set-Value $path 'DefaultGateway' 'MultiString' ([string[]]@(Get-Column $nic.Gateways 0))
    Set-Value $path 'DefaultGatewayMetric' 'MultiString' ([string[]]@(Get-Column $nic.Gateways 1))
    if ($nic.Metric -gt 0) { Set-Value $path 'InterfaceMetric' 'DWord' $nic.Metric }
}

function Get-Column($rows, $number) {
    foreach ($row in @($rows)) { @($row -split ' ')[$number] }
}

# Routes kept by hand that lead to the gateway of before. They go only now: the new gateway was confirmed.
function Remove-OldRoutes {
    $path = $Services + '\Tcpip\Parameters\PersistentRoutes'
    if (-not (Test-Path -Path $path)) { return }
    for ($number = 1; $number -le [int]$Plan['NICS']; $number++) {
        $nic = Get-Nic $number
        if (@($nic.Gateways).Count -eq 0) { continue }
        foreach ($name in @((Get-Item -Path $path).Property)) {
            if (-not $name) { continue }
            $to, $mask, $gateway, $metric = $name -split ','
            if ($to -ne '0.0.0.0' -or $nic.OldGateways -notcontains $gateway) { continue }
            Write-Log ('old persistent route ' + $name)
            & ($System + 'route.exe') delete 0.0.0.0 mask 0.0.0.0 $gateway | Out-Null
            Remove-ItemProperty -Path $path -Name $name -ErrorAction SilentlyContinue
        }
    }
}
