"""A tiny domain without an operating system, whose disks a test writes through QEMU's monitor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import libvirt
import libvirt_qemu

from refloat.libvirt_connection import Connection
from refloat.model import PowerState
from refloat.sources.base import DiskReader
from refloat.sources.libvirt import LibvirtSource
from refloat.sync.nbd import changed_ranges, connected
from refloat.sync.ranges import Ranges

URI = "qemu:///system"
IMAGES = Path("/var/lib/libvirt/images")
MIB = 1 << 20
SIZES = {"sda": 64 * MIB, "sdb": 32 * MIB}

_DISK = """<disk type='file' device='disk'>
<driver name='qemu' type='{format}'/><source file='{path}'/>
<target dev='{key}' bus='scsi'/>
<address type='drive' controller='0' bus='0' target='{index}' unit='0'/></disk>"""
_DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><controller type='scsi' index='0' model='vmpvscsi'/>{disks}
<interface type='user'><mac address='00:50:56:aa:bb:cc'/><model type='vmxnet3'/></interface>
</devices></domain>"""


class Rig:
    def __init__(self, formats: dict[str, str] | None = None) -> None:
        self.name = f"refloat-test-{uuid.uuid4().hex[:8]}"
        self.directory = IMAGES / self.name
        self.directory.mkdir()
        self.sockets = Path("/run") / self.name
        formats = formats or {}
        self.images = {key: self.directory / key for key in SIZES}
        disks = ""
        for index, (key, path) in enumerate(self.images.items()):
            kind = formats.get(key, "qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, str(SIZES[key])], check=True)
            # In the other order than the kernel's, to see that the order is taken from the addresses.
            disks = _DISK.format(format=kind, path=path, key=key, index=index) + disks
        self._connection = Connection(URI)
        self.domain = self._connection.get().defineXML(_DOMAIN.format(name=self.name, disks=disks))
        self.source = LibvirtSource(URI, self.sockets)

    def start(self) -> None:
        self.source.power_on(self.name)

    def write(self, offset: int, length: int, value: int, key: str = "sda") -> None:
        """As the guest would write, while it runs."""
        device = f"scsi0-0-{list(SIZES).index(key)}-0"
        command = f'qemu-io -d {device} "write -P {value} {offset} {length}"'
        said = libvirt_qemu.qemuMonitorCommand(
            self.domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        )
        assert not said.strip(), said

    def kill(self) -> None:
        """As a power cut: QEMU closes nothing."""
        pid = int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while self.source.power_state(self.name) is not PowerState.OFF:
            pass

    def checkpoints(self) -> set[str]:
        return {one.getName() for one in self.domain.listAllCheckpoints()}

    def bitmaps(self, key: str = "sda") -> str:
        argv = ["qemu-img", "info", "-U", str(self.images[key])]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        if self.domain.isActive():
            self.domain.destroyFlags(0)
        self.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        shutil.rmtree(self.directory)
        shutil.rmtree(self.sockets, ignore_errors=True)


def changed(reader: DiskReader) -> Ranges:
    assert reader.bitmap, reader.reason
    with connected(reader.uri, reader.bitmap) as handle:
        return changed_ranges(handle, reader.bitmap, reader.capacity)


def read(reader: DiskReader, offset: int, length: int) -> bytes:
    with connected(reader.uri) as handle:
        return bytes(handle.pread(length, offset))
