# The network by the commands that Windows 8 and Server 2012 brought.

# since 3.0
function Set-NicByCommand($nic, $index) {
    if ($nic.Mode -eq 'dhcp') {
        Clear-NicByCommand $index
        Set-NetIPInterface -InterfaceIndex $index -AddressFamily IPv4 -Dhcp Enabled
        Set-DnsClientServerAddress -InterfaceIndex $index -ResetServerAddresses
        Set-NamesByCommand $nic $index
        return
    }
    Set-NetIPInterface -InterfaceIndex $index -AddressFamily IPv4 -Dhcp Disabled
    Clear-NicByCommand $index
    foreach ($address in @($nic.Addresses + $nic.Addresses6)) {
        $parts = $address -split ' '
        $null = New-NetIPAddress -InterfaceIndex $index -IPAddress $parts[0] -PrefixLength ([int]$parts[1])
    }
    Add-GatewaysByCommand $index '0.0.0.0/0' $nic.Gateways
    Add-GatewaysByCommand $index '::/0' $nic.Gateways6
    Set-NamesByCommand $nic $index
    if ($nic.Metric -gt 0) { Set-NetIPInterface -InterfaceIndex $index -AddressFamily IPv4 -InterfaceMetric $nic.Metric }
}

# since 3.0
function Set-NamesByCommand($nic, $index) {
    $servers = @($nic.Dns + $nic.Dns6)
    if (@($servers).Count -gt 0) { Set-DnsClientServerAddress -InterfaceIndex $index -ServerAddresses $servers }
    if ($nic.Suffix) { Set-DnsClient -InterfaceIndex $index -ConnectionSpecificSuffix $nic.Suffix }
}

# since 3.0: what the adapter has by itself or from an earlier attempt.
function Clear-NicByCommand($index) {
    Get-NetRoute -InterfaceIndex $index -ErrorAction SilentlyContinue |
        Where-Object { @('0.0.0.0/0', '::/0') -contains $_.DestinationPrefix -and $_.NextHop -notlike 'fe80:*' } |
        Remove-NetRoute -Confirm:$false -ErrorAction SilentlyContinue
    Get-NetIPAddress -InterfaceIndex $index -ErrorAction SilentlyContinue |
        Where-Object { $_.AddressFamily -eq 'IPv4' -or $_.PrefixOrigin -eq 'Manual' } |
        Remove-NetIPAddress -Confirm:$false -ErrorAction SilentlyContinue
}

# since 3.0: metric 0 is automatic.
function Add-GatewaysByCommand($index, $prefix, $gateways) {
    foreach ($gateway in @($gateways)) {
        if (-not $gateway) { continue }
        $ip, $metric = $gateway -split ' '
        $null = New-NetRoute -InterfaceIndex $index -DestinationPrefix $prefix -NextHop $ip -RouteMetric ([int]$metric)
    }
}
