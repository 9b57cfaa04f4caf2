"""A Windows of few words for the script: files, a registry, WMI, adapters, disks, programs; and the launcher.

It does what the script's commands are documented to do, as far as the script can see it. What is broken in it
is said by the test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Interface
from typing import Any

from refloat.guest.firstboot.windows import staging
from tests.windows.interpreter import Call, Interpreter
from tests.windows.ps_values import PowerShellError, Thing, text_of
from tests.windows.windows_programs import DIR, STATE, Adapter, Programs

TCPIP = "SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters"
START = datetime(2026, 1, 1)


@dataclass
class Windows(Programs):
    """`modern`: has the commands of Windows 8. `codes`: exit codes, of pnputil by INF, of others by name.
    `network_works`: False where neither commands nor netsh do anything (the DHCP client is disabled)."""

    modern: bool = True
    network_works: bool = True
    agent_works: bool = True
    codes: dict[str, int] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    devices: list[Thing] = field(default_factory=list)
    disks: list[dict[str, Any]] = field(default_factory=list)
    needs_restart: bool = False  # devices work only after one
    acknowledges: bool = True
    files: dict[str, list[str]] = field(default_factory=dict)
    registry: dict[str, dict[str, Any]] = field(default_factory=dict)
    services: dict[str, str] = field(
        default_factory=lambda: dict.fromkeys(["RpcSs", "PlugPlay", "Winmgmt"], "Running")
    )
    sent: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    clock: datetime = START
    started: datetime = START
    cleaned: bool = False
    pending: bool = False

    # ------------------------------------------------------------ firstboot.cmd, as far as the script sees it

    def boot(self, text: str) -> str:
        """One boot: the launcher's numbers, the script, its wish."""
        self.begin()
        return self.start(text)

    def begin(self) -> None:
        self._count("boots")
        self.started = self.clock
        self._apply_registry()
        if self.pending:
            self._bind()
        boots = int(self.files[f"{STATE}boots".lower()][0])
        self._write("sequence", max(boots * 1000, self._number("sequence")))

    def start(self, text: str, instead: dict[str, Any] | None = None) -> str:
        """One start of the script. `instead`: commands that stand in for functions of it."""
        self._count("runs")
        self.files.pop(f"{STATE}next".lower(), None)
        environment = {"refloat_dir": DIR, "systemroot": "C:\\Windows", "systemdrive": "C:"}
        commands = self._commands() | (instead or {})
        Interpreter(commands, self.program, environment).run(text, set(instead or ()))
        wish = self.files.get(f"{STATE}next".lower(), [""])[0]
        if wish == "restart":
            self._count("restarts")
        return wish

    def _number(self, name: str) -> int:
        return int(self.files.get(f"{STATE}{name}".lower(), ["0"])[0])

    def _write(self, name: str, number: int) -> None:
        self.files[f"{STATE}{name}".lower()] = [str(number)]

    def _count(self, name: str) -> None:
        self._write(name, self._number(name) + 1)

    def _apply_registry(self) -> None:
        """What Windows reads when it starts."""
        for adapter in self.adapters:
            values = self.registry.get(f"{TCPIP}\\Interfaces\\{adapter.guid}".lower(), {})
            if values.get("enabledhcp") == 0:
                adapter.dhcp = False
                adapter.addresses = list(zip(values["ipaddress"], values["subnetmask"], strict=True))
                adapter.gateways = list(values.get("defaultgateway", []))
                adapter.dns = values["nameserver"].split(",")

    def _bind(self) -> None:
        for device in self.devices:
            device.properties["ConfigManagerErrorCode"] = 0

    # ------------------------------------------------------------ commands

    def _commands(self) -> dict[str, Any]:
        names = [name for name in dir(self) if name.startswith("c_")]
        later = {"new_netipaddress", "set_netipinterface", "set_disk", "get_disk", "remove_netipaddress"}
        later |= {"set_dnsclient", "set_dnsclientserveraddress", "get_netroute", "get_netipaddress"}
        later |= {"remove_netroute", "new_netroute"}
        return {
            name[2:].replace("_", "-"): getattr(self, name)
            for name in names
            if self.modern or name[2:] not in later
        }

    def c_get_command(self, call: Call) -> Any:
        return call.get("name") if call.get("name").lower() in call.interpreter.commands else None

    def c_get_date(self, call: Call) -> Any:
        self.clock += timedelta(milliseconds=50)
        return self.clock.isoformat(timespec="seconds") if call.get("format") else self.clock

    def c_new_timespan(self, call: Call) -> Any:
        return timedelta(seconds=call.get("seconds"))

    def c_start_sleep(self, call: Call) -> None:
        self.clock += timedelta(seconds=call.get("seconds") or 0, milliseconds=call.get("milliseconds") or 0)

    def c_get_content(self, call: Call) -> Any:
        path = call.get("path").lower()
        if path not in self.files:
            raise PowerShellError(f"cannot find path {path}")
        return list(self.files[path])

    def c_set_content(self, call: Call) -> None:
        value = call.get("value")
        self.files[call.get("path").lower()] = [
            text_of(v) for v in (value if isinstance(value, list) else [value])
        ]

    def c_add_content(self, call: Call) -> None:
        self.files.setdefault(call.get("path").lower(), []).append(call.get("value"))

    def c_test_path(self, call: Call) -> bool:
        path = call.get("path").lower()
        return _key(path) in self.registry if path.startswith("hklm:") else path in self.files

    def c_get_itemproperty(self, call: Call) -> Any:
        values = self.registry.get(_key(call.get("path")), {})
        name = call.get("name")
        if name.lower() not in values:
            raise PowerShellError("property does not exist")
        return Thing({name: values[name.lower()]})

    def c_new_itemproperty(self, call: Call) -> Any:
        if call.get("value") is None:
            raise PowerShellError("null value")
        self.registry[_key(call.get("path"))][call.get("name").lower()] = call.get("value")

    def c_remove_itemproperty(self, call: Call) -> None:
        values = self.registry.get(_key(call.get("path")), {})
        if values.pop(call.get("name").lower(), None) is None:
            raise PowerShellError("property does not exist")

    def c_new_item(self, call: Call) -> Any:
        self.registry.setdefault(_key(call.get("path")), {})
        return Thing({})

    def c_get_item(self, call: Call) -> Any:
        return Thing({"Property": list(self.registry[_key(call.get("path"))])})

    def c_remove_item(self, call: Call) -> None:
        key = _key(call.get("path"))
        for path in [path for path in self.registry if path == key or path.startswith(f"{key}\\")]:
            del self.registry[path]

    def c_get_childitem(self, call: Call) -> Any:
        key = _key(call.get("path"))
        below = {
            path[len(key) + 1 :].partition("\\")[0] for path in self.registry if path.startswith(f"{key}\\")
        }
        return [Thing({"PSChildName": name, "PSPath": f"HKLM:\\{key}\\{name}"}) for name in sorted(below)]

    def c_get_service(self, call: Call) -> Any:
        state = self.services.get(call.get("name"))
        if state is None:
            raise PowerShellError("no such service")
        return Thing({"Status": state})

    def c_start_service(self, call: Call) -> None:
        self.services[call.get("name")] = "Running"

    def c_test_connection(self, call: Call) -> bool:
        return True

    def c_invoke_wmimethod(self, call: Call) -> Any:
        configuration = call.get("inputobject")
        self._adapter(configuration.get("Index")).suffix = call.get("argumentlist")

    def c_get_wmiobject(self, call: Call) -> Any:
        rows = getattr(self, f"_wmi_{call.get('class').lower()}")()
        wanted = call.get("filter") or ""
        if found := re.fullmatch(r"Index = (\d+)", wanted):
            return [row for row in rows if row.get("Index") == int(found[1])]
        if found := re.fullmatch(r"DeviceID (LIKE|=) '([^']+)'", wanted):
            pattern = re.escape(found[2]).replace("%", ".*").replace("_", ".")
            return [row for row in rows if re.fullmatch(pattern, row.get("DeviceID"), re.IGNORECASE)]
        assert wanted in ("", "MACAddress IS NOT NULL", "IPEnabled = TRUE"), wanted
        return rows

    def _wmi_win32_operatingsystem(self) -> list[Thing]:
        def written(time: datetime) -> str:
            return time.strftime("%Y%m%d%H%M%S.500000+060")

        times = {"LocalDateTime": written(self.clock), "LastBootUpTime": written(self.started)}
        return [Thing({"Version": "10.0.20348", **times})]

    def _wmi_win32_networkadapter(self) -> list[Thing]:
        return [
            Thing(
                {
                    "MACAddress": adapter.mac.upper(),
                    "PNPDeviceID": adapter.device,
                    "Index": adapter.index,
                    "InterfaceIndex": adapter.index + 10,
                    "NetConnectionID": f"Eth\u00e9rnet {adapter.index}",
                    "NetConnectionStatus": 2 if adapter.linked else 7,
                    "ServiceName": adapter.service,
                }
            )
            for adapter in self.adapters
        ]

    def _wmi_win32_networkadapterconfiguration(self) -> list[Thing]:
        return [
            Thing(
                {
                    "Index": adapter.index,
                    "SettingID": adapter.guid,
                    "DHCPEnabled": adapter.dhcp,
                    "IPAddress": [ip for ip, _ in adapter.addresses] or None,
                    "IPSubnet": [mask for _, mask in adapter.addresses] or None,
                    "DefaultIPGateway": adapter.gateways or None,
                    "DNSServerSearchOrder": adapter.dns or None,
                    "DNSDomain": adapter.suffix or None,
                }
            )
            for adapter in self.adapters
        ]

    def _wmi_win32_pnpentity(self) -> list[Thing]:
        return self.devices

    def _wmi_win32_diskdrive(self) -> list[Thing]:
        return [Thing({"Index": n, "SerialNumber": disk["serial"]}) for n, disk in enumerate(self.disks)]

    def _wmi_win32_logicaldisk(self) -> list[Thing]:
        return [Thing({"DeviceID": letter}) for letter in ("C:", "D:")]

    # ------------------------------------------------------------ commands of Windows 8

    def _adapter(self, index: int) -> Adapter:
        if not self.network_works:
            raise PowerShellError("the RPC server is unavailable")
        return next(adapter for adapter in self.adapters if index in (adapter.index, adapter.index + 10))

    def c_get_disk(self, call: Call) -> Any:
        disk = self.disks[call.get("number")]
        return Thing(
            {
                "IsOffline": disk["offline"],
                "IsReadOnly": disk["readonly"],
                "IsClustered": disk.get("clustered"),
            }
        )

    def c_set_disk(self, call: Call) -> None:
        assert ("isoffline" in call.named) != ("isreadonly" in call.named)
        disk = self.disks[call.get("number")]
        disk["offline"] = call.named.get("isoffline", disk["offline"])
        disk["readonly"] = call.named.get("isreadonly", disk["readonly"])

    def c_set_netipinterface(self, call: Call) -> None:
        adapter = self._adapter(call.get("interfaceindex"))
        if call.get("dhcp"):
            adapter.dhcp = call.get("dhcp") == "Enabled"

    def c_get_netroute(self, call: Call) -> Any:
        return []

    def c_remove_netroute(self, call: Call) -> None:
        pass

    def c_get_netipaddress(self, call: Call) -> Any:
        adapter = self._adapter(call.get("interfaceindex"))
        return [
            Thing({"AddressFamily": "IPv4", "IPAddress": ip, "adapter": adapter})
            for ip, _ in adapter.addresses
        ]

    def c_remove_netipaddress(self, call: Call) -> None:
        for address in call.piped:
            adapter = address.get("adapter")
            adapter.addresses = [one for one in adapter.addresses if one[0] != address.get("IPAddress")]

    def c_new_netipaddress(self, call: Call) -> Any:
        adapter = self._adapter(call.get("interfaceindex"))
        prefix = call.get("prefixlength")
        ip = call.get("ipaddress")
        if any(ip == one for one, _ in adapter.addresses):
            raise PowerShellError("the object already exists")
        mask = str(prefix) if ":" in ip else str(IPv4Interface(f"{ip}/{prefix}").netmask)
        adapter.addresses.append((ip, mask))
        return Thing({})

    def c_new_netroute(self, call: Call) -> Any:
        self._adapter(call.get("interfaceindex")).gateways.append(call.get("nexthop"))

    def c_set_dnsclientserveraddress(self, call: Call) -> None:
        servers = call.get("serveraddresses") or []
        adapter = self._adapter(call.get("interfaceindex"))
        adapter.dns = [one for one in (servers if isinstance(servers, list) else [servers]) if ":" not in one]

    def c_set_dnsclient(self, call: Call) -> None:
        self._adapter(call.get("interfaceindex")).suffix = call.get("connectionspecificsuffix")


def _key(path: str) -> str:
    return path.lower().removeprefix("hklm:\\")


def staged(windows: Windows, files: dict[str, staging.WindowsFile]) -> str:
    """Puts what was staged into the model; gives the script."""
    for path, file in files.items():
        name = path.rpartition("/")[2]
        windows.files[f"{DIR}{name}".lower()] = file.content.decode().splitlines()
    return "\n".join(windows.files[f"{DIR}firstboot.ps1".lower()])
