# What has become of the guest: functions that leave JSON, each without the brackets around a list.

# A JSON string. Whatever could break the line or the reader's terminal becomes "?"; at most 250 characters.
function ConvertTo-Quoted($text) {
    $plain = ([string]$text) -replace '[^\x20-\x7e]', '?' -replace '^(.{250}).*$', '$1'
    '"' + ($plain -replace '\\', '\\' -replace '"', '\"') + '"'
}

function ConvertTo-QuotedList($items) {
    $quoted = @()
    foreach ($item in @($items)) {
        if ($item) { $quoted += ConvertTo-Quoted $item }
    }
    '[' + ($quoted -join ',') + ']'
}

function ConvertTo-Flag($value) {
    if ($value) { 'true' } else { 'false' }
}

# The adapters that are devices of this machine: a team, a bridge or a VLAN may have the MAC of one of them.
function Get-Adapters {
    Get-WmiObject -Class Win32_NetworkAdapter -Filter 'MACAddress IS NOT NULL' |
        Where-Object { $_.PNPDeviceID -like 'PCI\*' -or $_.PNPDeviceID -like 'VMBUS\*' }
}

# The one adapter with this MAC; nothing where there is none, or where there are several.
function Find-Adapter($mac) {
    $found = @(Get-Adapters | Where-Object { $_.MACAddress -eq $mac })
    if (@($found).Count -eq 1) { $found[0] }
}

function Get-Configuration($adapter) {
    Get-WmiObject -Class Win32_NetworkAdapterConfiguration -Filter ('Index = {0}' -f $adapter.Index)
}

# How many bits a mask has; of IPv6, Windows gives the number by itself.
function Get-Prefix($mask) {
    if ($mask -notlike '*.*') { return [int]$mask }
    $octets = @{ '255' = 8; '254' = 7; '252' = 6; '248' = 5; '240' = 4; '224' = 3; '192' = 2; '128' = 1; '0' = 0 }
    $bits = 0
    foreach ($octet in @($mask -split '\.')) { $bits += $octets[$octet] }
    $bits
}

# The lasting addresses of an adapter's configuration: "10.0.0.5/24".
function Get-Addresses($configuration) {
    $masks = @($configuration.IPSubnet)
    $number = 0
    foreach ($address in @($configuration.IPAddress)) {
        if ($address -and $address -notlike 'fe80:*' -and $address -notlike '169.254.*') {
            '{0}/{1}' -f $address, (Get-Prefix $masks[$number])
        }
        $number++
    }
}

function Get-NicsJson {
    $nics = @()
    foreach ($adapter in @(Get-Adapters)) {
        if (-not $adapter) { continue }
        $mac = ConvertTo-Quoted ($adapter.MACAddress -replace '-', ':')
        $name = ConvertTo-Quoted $adapter.NetConnectionID
        $up = ConvertTo-Flag ($adapter.NetConnectionStatus -eq 2)
        $addresses = ConvertTo-QuotedList @(Get-Addresses (Get-Configuration $adapter))
        $driver = ConvertTo-Quoted $adapter.ServiceName
        $nics += '{{"mac":{0},"name":{1},"up":{2},"addresses":{3},"driver":{4}}}' -f $mac, $name, $up, $addresses, $driver
    }
    '[' + ($nics -join ',') + ']'
}

# The default gateways in use, IPv4 or IPv6.
function Get-Gateways($six) {
    foreach ($configuration in @(Get-WmiObject -Class Win32_NetworkAdapterConfiguration -Filter 'IPEnabled = TRUE')) {
        foreach ($gateway in @($configuration.DefaultIPGateway)) {
            if ($gateway -and ($gateway -like '*:*') -eq $six) { $gateway }
        }
    }
}

# Whether the neighbour is there. It may answer no pings: that it has told its MAC shows as much.
function Test-Neighbour($address) {
    if (Test-Connection -ComputerName $address -Count 1 -Quiet) { return $true }
    $table = & ($System + 'arp.exe') -a $address
    [bool](@($table) -match '([0-9a-f]{2}-){5}[0-9a-f]{2}' -notmatch '00-00-00-00-00-00')
}

# "gateway" or "gateway6" with its answer. One that answers is named before others.
function Get-GatewayJson($name, $six) {
    $found = ''
    $answers = $false
    foreach ($gateway in @(Get-Gateways $six)) {
        if (-not $gateway -or $answers) { continue }
        $found = $gateway
        $answers = Test-Neighbour $gateway
    }
    '"{0}":{1},"{0}_answers":{2}' -f $name, (ConvertTo-Quoted $found), (ConvertTo-Flag $answers)
}

# Name servers and suffixes: of IPv4 as WMI has them, of IPv6 from the registry.
function Get-DnsJson {
    $servers = @()
    $suffixes = @()
    foreach ($configuration in @(Get-WmiObject -Class Win32_NetworkAdapterConfiguration -Filter 'IPEnabled = TRUE')) {
        if (-not $configuration) { continue }
        $servers += @($configuration.DNSServerSearchOrder)
        $suffixes += @($configuration.DNSDomain)
        $path = '{0}\Tcpip6\Parameters\Interfaces\{1}' -f $Services, $configuration.SettingID
        $servers += @((Get-Value $path 'NameServer') -split '[ ,]+')
    }
    '"dns":{0},"search":{1}' -f (ConvertTo-QuotedList $servers), (ConvertTo-QuotedList $suffixes)
}

# The system drive, and the drive letters that the plan knows: each must stand for what it did.
function Get-MountsJson {
    $mounts = @('{{"mountpoint":{0},"mounted":true,"device":"system"}}' -f (ConvertTo-Quoted $env:SystemDrive))
    for ($number = 1; $number -le [int]$Plan['LETTERS']; $number++) {
        $letter = $Plan['LETTER_{0}_NAME' -f $number] + ':'
        if ($letter -eq $env:SystemDrive) { continue }
        $data = $Plan['LETTER_{0}_DATA' -f $number]
        $mounted = ConvertTo-Flag (Test-Letter $letter $data)
        $mounts += '{{"mountpoint":{0},"mounted":{1},"device":{2}}}' -f (ConvertTo-Quoted $letter), $mounted, (ConvertTo-Quoted $data)
    }
    '[' + ($mounts -join ',') + ']'
}

# Whether the letter is there, for the volume that the plan names (hex of MountedDevices).
function Test-Letter($letter, $data) {
    $bytes = @(Get-Value 'HKLM:\SYSTEM\MountedDevices' ('\DosDevices\' + $letter))
    $hex = ''
    foreach ($byte in @($bytes)) { $hex += '{0:x2}' -f $byte }
    $hex -eq $data -and [bool](Get-WmiObject -Class Win32_LogicalDisk -Filter ("DeviceID = '{0}'" -f $letter))
}

# Devices of virtio: with their services and with what is wrong with them (0: nothing).
function Get-VirtioDevices {
    Get-WmiObject -Class Win32_PnPEntity -Filter "DeviceID LIKE 'PCI%VEN_1AF4%'"
}

function Get-DriversJson {
    $found = @()
    foreach ($device in @(Get-VirtioDevices)) {
        if (-not $device -or $device.ConfigManagerErrorCode -ne 0 -or -not $device.Service) { continue }
        if ($found -notcontains $device.Service) { $found += $device.Service }
    }
    ConvertTo-QuotedList $found
}

# Seconds since the start, from two times of one answer: WMI's "20261122221358.500000+060".
function Get-Uptime($windows) {
    $now = (ConvertTo-Time $windows.LocalDateTime) - (ConvertTo-Time $windows.LastBootUpTime)
    $seconds = [int]$now.TotalSeconds
    # The clock may have been set in between.
    if ($seconds -lt 0) { 0 } else { $seconds }
}

function ConvertTo-Time($text) {
    [datetime]($text -replace '^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d).*$', '$1-$2-$3 $4:$5:$6')
}
