"""QEMU by its argument list: VMware-like hardware for a guest's past, virtio for its recovery.

All waiting is for events (a report, a text on the serial console, the end of QEMU), each with a deadline.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from pathlib import Path

from refloat.model import Firmware, GuestReport, Secrets
from refloat.reports import Lines, ReportRejected, parse_report, sequence_of
from tests.guests.matrix import GuestNic

WITHIN = 420.0  # seconds for anything that boots
_FIRMWARE = Path("/usr/share/OVMF")
_BASE = (
    *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "2", "-m", "1024"),
    *("-nodefaults", "-display", "none", "-no-reboot", "-M", "q35"),
)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Machines that several test runs share can name a file in REFLOAT_VM_LOCK: its holder boots a VM."""
    name = os.environ.get("REFLOAT_VM_LOCK")
    if not name:
        yield
        return
    with open(name, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass
class Machine:
    """A running VM. `console` is all that its serial line has shown."""

    process: subprocess.Popen[bytes]
    directory: Path
    console: bytes = b""
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _sockets: dict[str, socket.socket] = field(default_factory=dict)

    def connect(self, name: str) -> None:
        """To the chardev of this name, as soon as QEMU listens."""
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.directory / "qemu.log").read_text()
            one = socket.socket(socket.AF_UNIX)
            try:
                one.connect(str(self.directory / f"{name}.sock"))
            except OSError:
                one.close()
                assert time.monotonic() < deadline, f"QEMU does not listen for {name}"
                time.sleep(0.05)
                continue
            self._sockets[name] = one
            self._selector.register(one, selectors.EVENT_READ, name)
            return

    def send(self, name: str, data: bytes) -> None:
        self._sockets[name].sendall(data)

    def wait(
        self,
        done: Callable[[], bool],
        within: float = WITHIN,
        heard: Callable[[bytes], None] | None = None,
        ends: bool = False,
    ) -> None:
        """Until `done()`. `heard` gets what comes from the report channel; `ends`: QEMU may end."""
        deadline = time.monotonic() + within
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or (self.process.poll() is not None and not ends):
                why = "nothing until the deadline" if left <= 0 else "the VM ended"
                raise AssertionError(
                    f"{why}; the console's end: {self.console[-3000:].decode(errors='replace')}"
                )
            for key, _ in self._selector.select(timeout=min(left, 1.0)):
                self._read(str(key.data), heard)

    def _read(self, name: str, heard: Callable[[bytes], None] | None) -> None:
        one = self._sockets[name]
        data = one.recv(65536)
        if not data:
            self._selector.unregister(one)
        elif name == "serial":
            self.console += data
        elif heard:
            heard(data)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for one in self._sockets.values():
            with suppress(OSError):
                one.close()
        self._selector.close()


@contextmanager
def machine(directory: Path, argv: Sequence[str], channels: Sequence[str] = ()) -> Iterator[Machine]:
    """QEMU with these arguments besides the common ones and a serial line; killed at the end."""
    chars = [
        *(
            "-chardev",
            f"socket,id=serial,path={directory}/serial.sock,server=on,wait=off,logfile={directory}/console.log",
        ),
        *("-serial", "chardev:serial"),
    ]
    for name in ("serial", *channels):
        (directory / f"{name}.sock").unlink(missing_ok=True)
    with one_at_a_time(), (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            [*_BASE, *chars, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        running = Machine(process, directory)
        try:
            for name in ("serial", *channels):
                running.connect(name)
            yield running
        finally:
            running.stop()


# ---------------------------------------------------------------- hardware


def vmware_hardware(disks: Sequence[Path], nics: Sequence[GuestNic] = ()) -> list[str]:
    """Paravirtual SCSI disks (/dev/sda, ...) and vmxnet3 NICs that the kernel calls ens192, ens224, ..."""
    argv = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    argv += ["-device", "pvscsi,id=s0,addr=0x10"]
    for number, disk in enumerate(disks):
        argv += ["-drive", f"if=none,id=d{number},file={disk},format=raw"]
        argv += ["-device", f"scsi-hd,bus=s0.0,scsi-id={number},drive=d{number},bootindex={number}"]
    for number, nic in enumerate(nics):
        slot = nic.name.removeprefix("ens")
        argv += [
            "-device",
            f"pcie-root-port,id=rp{number},chassis={number + 1},slot={slot},addr=0x{0x11 + number:x}",
        ]
        argv += ["-netdev", f"user,id=n{number},restrict=on"]
        argv += ["-device", f"vmxnet3,bus=rp{number},netdev=n{number},mac={nic.mac}"]
    return argv


def recovery_hardware(
    disk: Path, nics: Sequence[GuestNic], forward: int, firmware: Firmware, directory: Path
) -> list[str]:
    """virtio-blk and virtio-net. `forward` is the port of 127.0.0.1 that leads to port 22 of the address
    of the NIC with a gateway: it answers only if the guest holds that very address."""
    argv = ["-drive", f"if=virtio,file={disk},format=raw,cache=unsafe"]
    if firmware is Firmware.UEFI:
        variables = directory / "vars.fd"  # blank: no boot entries
        shutil.copy(_FIRMWARE / "OVMF_VARS_4M.fd", variables)
        code = _FIRMWARE / "OVMF_CODE_4M.fd"
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
        argv += ["-drive", f"if=pflash,format=raw,file={variables}"]
    for number, nic in enumerate(nics):
        argv += ["-netdev", _segment(number, nic, forward)]
        argv += ["-device", f"virtio-net-pci,netdev=n{number},mac={nic.mac},romfile="]
    argv += ["-device", "virtio-serial-pci"]
    argv += ["-chardev", f"socket,id=report,path={directory}/report.sock,server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=report,name=org.refloat.report"]
    return argv


def _segment(number: int, nic: GuestNic, forward: int) -> str:
    address = ip_interface(nic.address)
    host = nic.gateway or str(address.network.network_address + 2)
    parts = [
        f"user,id=n{number},net={address.network},host={host}",
        f"dns={address.network.network_address + 3}",
    ]
    if nic.address6:
        parts.append(f"ipv6-net={ip_network(nic.address6, strict=False)},ipv6-host={nic.gateway6}")
    if nic.gateway:
        parts.append(f"hostfwd=tcp:127.0.0.1:{forward}-{address.ip}:22")
    return ",".join(parts)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def first_life(disks: Sequence[Path], nics: Sequence[GuestNic], directory: Path) -> None:
    """Boots a guest on VMware's hardware, where it does what made it what it is, and powers off."""
    argv = [*vmware_hardware(disks, nics), "-boot", "strict=on"]
    with machine(directory, argv) as running:
        running.wait(lambda: running.process.poll() is not None, within=1500, ends=True)
        with suppress(AssertionError):
            running.wait(lambda: False, within=0.5, ends=True)  # what it still had to say
    assert b"FIRST-LIFE-DONE" in running.console, running.console[-3000:]


# ---------------------------------------------------------------- the guest's reports


@dataclass
class Listener:
    """Takes and acknowledges the guest's reports, as the hub does."""

    machine: Machine
    job: str
    secrets: Secrets
    reports: list[GuestReport] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    _lines: Lines = field(default_factory=Lines)

    def heard(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            try:
                report = parse_report(
                    line, self.job, self.secrets, self.reports[-1] if self.reports else None
                )
                self.reports.append(report)
                self.machine.send("report", f"ack {report.sequence}\n".encode())
            except ReportRejected as error:
                self.rejected.append(error.message)
                if error.code == "report_replayed":
                    self.machine.send("report", f"ack {sequence_of(line)}\n".encode())

    def final(self) -> GuestReport:
        """The report of the end of the first boot. Raises AssertionError where none comes."""
        self.machine.wait(lambda: bool(self.reports) and self.reports[-1].stage == "final", heard=self.heard)
        return self.reports[-1]
