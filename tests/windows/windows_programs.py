"""The programs that the script runs, and the adapters and disks that they set: parts of windows_model.py."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from tests.windows.interpreter import Call
from tests.windows.ps_values import Thing

DIR = "C:\\Windows\\Refloat\\"
STATE = f"{DIR}state\\"


@dataclass
class Adapter:
    mac: str
    index: int
    device: str = "PCI\\VEN_1AF4&DEV_1041\\4&1"
    service: str = "netkvm"
    linked: bool = True
    dhcp: bool = True
    addresses: list[tuple[str, str]] = field(default_factory=list)
    gateways: list[str] = field(default_factory=list)
    dns: list[str] = field(default_factory=list)
    suffix: str = ""

    @property
    def guid(self) -> str:
        return f"{{00000000-0000-0000-0000-{self.index:012d}}}"


class Programs(ABC):
    """What a program finds of the machine around it."""

    codes: dict[str, int]
    ran: list[str]
    sent: list[str]
    files: dict[str, list[str]]
    services: dict[str, str]
    disks: list[dict[str, Any]]
    agent_works: bool
    network_works: bool
    needs_restart: bool
    acknowledges: bool
    cleaned: bool
    pending: bool

    @abstractmethod
    def _number(self, name: str) -> int: ...

    @abstractmethod
    def _bind(self) -> None: ...

    @abstractmethod
    def _adapter(self, index: int) -> Adapter: ...

    def c_start_process(self, call: Call) -> Any:
        words = call.get("argumentlist")
        line = " ".join(words) if isinstance(words, list) else words
        code, _ = self.program(call.get("filepath"), [line])
        return Thing({"ExitCode": code, "HasExited": True, "Id": 99})

    def program(self, file: str, words: list[str]) -> tuple[int, list[str]]:
        name, line = file.rpartition("\\")[2].lower(), " ".join(words)
        self.ran.append(f"{name} {line}")
        runner = getattr(self, f"_run_{name.removesuffix('.exe')}", None)
        if runner is None:
            return self.codes.get(name, 0), []
        return runner(line), []

    def _run_cmd(self, line: str) -> int:
        if found := re.fullmatch(r"/d /c move /y (\S+) (\S+)", line):
            self.files[found[2].lower()] = self.files.pop(found[1].lower())
        elif line.endswith("firstboot.cmd clean"):
            self.cleaned = True
            for path in [path for path in self.files if not path.startswith(STATE.lower())]:
                if path.rpartition("\\")[2] in ("plan.txt", "secrets.txt", "firstboot.ps1"):
                    del self.files[path]
            return self.codes.get("clean", 0)
        elif found := re.fullmatch(r'/d /c "type "(\S+)" >"(\S+)""', line):
            self.sent += [text for text in self.files[found[1].lower()] if text]
        elif re.fullmatch(r'/d /c ""\S+firstboot\.cmd" exchange "\S+""', line):
            if self.acknowledges:
                self.files[f"{STATE}ack".lower()] = [f"ANSWER=ack {self._number('sequence')}"]
        else:
            raise AssertionError(line)
        return 0

    def _run_pnputil(self, line: str) -> int:
        inf = line.rpartition("\\")[2].split('"')[0].lower()
        code = self.codes.get(inf, 0)
        if "/add-driver" in line or "-i -a" in line:
            if self.needs_restart:
                self.pending = True
            else:
                self._bind()
        return code

    def _run_msiexec(self, line: str) -> int:
        if self.agent_works:
            self.services["QEMU-GA"] = "Running"
        return self.codes.get("msiexec", 0)

    def _run_diskpart(self, line: str) -> int:
        orders = self.files[f"{STATE}diskpart".lower()]
        disk = self.disks[int(orders[0].split()[-1])]
        disk["offline"] = disk["readonly"] = False
        return 0

    def _run_netsh(self, line: str) -> int:
        if not self.network_works:
            return 1
        words = line.split()
        given = dict(word.split("=", 1) for word in words if "=" in word)
        adapter = self._adapter(int(given.get("name") or given["interface"]))
        verb, what = words[2], words[3]
        if what == "address" and words[1] == "ipv4":
            adapter.dhcp = given.get("source") == "dhcp"
            if verb == "set":
                adapter.addresses, adapter.gateways = [], []
            if "address" in given:
                adapter.addresses.append((given["address"], given["mask"]))
            if given.get("gateway", "none") != "none":
                adapter.gateways.append(given["gateway"])
        elif what == "address":
            ip, _, prefix = given["address"].partition("/")
            adapter.addresses.append((ip, prefix))
        elif what == "route":
            adapter.gateways.append(given["nexthop"])
        elif what == "dnsservers" and words[1] == "ipv4" and given.get("source") != "dhcp":
            adapter.dns = [*(adapter.dns if verb == "add" else []), given["address"]]
        return 0
