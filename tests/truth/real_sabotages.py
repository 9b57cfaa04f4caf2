"""The table for real guests: each row makes a booted guest, or its platform, wrong in one way.

`guest` is a shell script that the controller runs as root after the adaptation, in the root directory of the
replica; so it does what a defect of the adaptation, a damaged disk or a careless administrator would do.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass

import libvirt

from refloat.destinations.libvirt import LibvirtDestination
from refloat.lab.layout import SOURCE_ADDRESS, Lab
from refloat.model import AttachedDisk, AttachedNic, DiskBus, Mode, Word
from tests.system.libvirtd import kill_vm

F, P = Word.FAILED, Word.PARTIAL
HALF = "never said that its boot ended"
NO_PROBE = f"{SOURCE_ADDRESS}:22 did not answer"
OTHER_MAC = "52:54:00:de:ad:01"

# Seconds. A guest that says nothing is waited for that long; one that ends its boot ends the wait.
SILENCE = 75
BOOTED = 150  # and has said what it says by then
LONG = 300  # systemd looks 90 s for a device that is not there


@dataclass(frozen=True)
class Place:
    """Where a sabotage strikes: the recovered VM at the real platform."""

    lab: Lab
    destination: LibvirtDestination

    @property
    def vm(self) -> str:
        return self.lab.controller_vm

    @property
    def connection(self) -> libvirt.virConnect:
        return self.destination._connection.get()

    @property
    def domain(self) -> libvirt.virDomain:
        return self.connection.lookupByName(self.vm)


Meddle = Callable[[Place], None]


@dataclass(frozen=True)
class Sabotage:
    """`at_start` happens to the VM just before it runs, `running` just after. The verdict must be `word` and
    name the `cause`. `probed`: by the lab's policy, which costs half a minute where nobody answers. `quick`:
    one of those that every run of the tests has."""

    name: str
    cause: str
    word: Word = F
    guest: str = ""
    at_start: Meddle | None = None
    running: Meddle | None = None
    mode: Mode = Mode.TEST
    deadline: int = SILENCE
    probed: bool = True
    quick: bool = False


# ---------------------------------------------------------------- in the guest


def kernel_line(words: str) -> str:
    """A sed command for every kernel line of grub.cfg."""
    return f"sed -i '/^[[:space:]]*linux[[:space:]]/{words}' boot/grub/grub.cfg\n"


LINES_CHANGED = "test $(grep -c '^[[:space:]]*linux.*{}' boot/grub/grub.cfg) -ge 2\n"

NO_VIRTIO = """
python3 -I -S - boot/initrd.img-* <<'END'
import os, sys
(path,) = sys.argv[1:]
with open(path, "rb") as file:
    ours = file.read().index(b"070701")  # its own archive is compressed
assert ours > 1 << 20, ours
os.truncate(path, ours)
END
"""
HALF_AN_INITRD = """
for initrd in boot/initrd.img-*; do truncate -s $(($(stat -c %s "$initrd") / 2)) "$initrd"; done
"""
PANICS = kernel_line("s#$# init=/bin/false#") + LINES_CHANGED.format("init=/bin/false")
EMERGENCY = kernel_line("s#$# systemd.unit=emergency.target systemd.mask=refloat-report.service#") + (
    LINES_CHANGED.format("emergency.target")
)
FSTAB_HANGS = "echo 'UUID=00000000-0000-4000-8000-00000000dead /srv/gone ext4 defaults 0 2' >>etc/fstab\n"
MASKED = """
test -f etc/systemd/system/refloat-report.service
ln -sf /dev/null etc/systemd/system/refloat-report.service
"""


def in_script(old: str, new: str, file: str = "firstboot.sh") -> str:
    """One line of the staged script is another one."""
    path = f"etc/refloat/{file}"
    return f"test $(grep -c -x '{old}' {path}) = 1\nsed -i 's@^{old}$@{new}@' {path}\n"


KILLED = in_script("    wait_for_gateway", "    kill -9 $$")
OTHER_NONCE = "sed -i \"s/^NONCE=.*/NONCE='of-another-boot'/\" etc/refloat/secrets\n"
OTHER_JOB = "sed -i \"s/^JOB=.*/JOB='lab-web-000000'/\" etc/refloat/firstboot.conf\n"
OTHER_GATEWAY = """
grep -q 'gateway 10.20.30.2$' etc/refloat/network/0
sed -i 's/gateway 10.20.30.2$/gateway 10.20.30.99/' etc/refloat/network/0
"""
# The guest has another address, and its report is made to say that it has the planned one.
LIES = """
grep -q 'address 10.20.30.40/24' etc/refloat/network/0
sed -i 's#address 10.20.30.40/24#address 10.20.30.77/24#' etc/refloat/network/0
sed -i 's#ip -o addr show 2>/dev/null#ip -o addr show | sed s/30[.]77/30.40/#' etc/refloat/facts.sh
grep -q -F '30[.]77' etc/refloat/facts.sh
"""


# ---------------------------------------------------------------- at the platform


def data_disk_left_out(place: Place) -> None:
    place.destination.set_disks(place.vm, place.destination.hardware(place.vm).disks[:1])


def controllers_disk_first(place: Place) -> None:
    own = AttachedDisk("rf-controller", str(place.lab.images / "controller.raw"), DiskBus.VIRTIO_BLK)
    disks = place.destination.hardware(place.vm).disks
    place.destination.set_disks(place.vm, (own, *disks))


def another_mac(place: Place) -> None:
    nics = place.destination.hardware(place.vm).nics
    place.destination.set_nics(place.vm, [AttachedNic(OTHER_MAC, nic.network, nic.model) for nic in nics])


def no_adapter(place: Place) -> None:
    place.destination.set_nics(place.vm, [])


def redefined(change: Callable[[ET.Element], None]) -> Meddle:
    """By the platform's own means: what Refloat's definition cannot say."""

    def act(place: Place) -> None:
        root = ET.fromstring(place.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        change(root)
        place.connection.defineXML(ET.tostring(root, encoding="unicode"))

    return act


def years_ago(root: ET.Element) -> None:
    clock = root.find("clock")
    assert clock is not None
    clock.attrib.clear()
    clock.attrib.update(offset="variable", adjustment="-300000000", basis="utc")


def no_channel(root: ET.Element) -> None:
    devices = root.find("devices")
    assert devices is not None
    for channel in devices.findall("channel"):
        devices.remove(channel)


def suspend(place: Place) -> None:
    place.domain.suspend()


def kill_qemu(place: Place) -> None:
    kill_vm(place.vm)


# ---------------------------------------------------------------- the table

SILENT = "no report from inside the guest"

ROWS = (
    # It does not come up.
    Sabotage("virtio-module-missing", SILENT, guest=NO_VIRTIO, probed=False),
    Sabotage("initrd-truncated", "a kernel panic", guest=HALF_AN_INITRD, probed=False),
    Sabotage("kernel-panic", "a kernel panic", guest=PANICS, probed=False),
    Sabotage("emergency-shell", "the emergency or rescue shell", guest=EMERGENCY, probed=False),
    Sabotage("controller-disk-boots", SILENT, at_start=controllers_disk_first, probed=False),
    Sabotage("vm-paused-by-its-host", "is paused", running=suspend, probed=False, quick=True),
    Sabotage("vm-killed", "is off", running=kill_qemu, probed=False),
    # It comes up half. (The last that a killed script said is from before its network was up.)
    Sabotage("fstab-entry-hangs", "/srv/gone is not mounted", guest=FSTAB_HANGS, deadline=LONG),
    Sabotage("disk-left-out", "/srv/data is not mounted", at_start=data_disk_left_out, deadline=LONG),
    Sabotage("script-killed-half-way", HALF, guest=KILLED, deadline=BOOTED),
    # It comes up, and nobody hears of it: that its network answers is no word of the guest. What has another
    # boot's words is another boot.
    Sabotage("first-boot-unit-masked", SILENT, P, guest=MASKED, deadline=BOOTED),
    Sabotage("no-channel", SILENT, P, at_start=redefined(no_channel), deadline=BOOTED),
    Sabotage("nonce-of-another-boot", "wrong nonce", guest=OTHER_NONCE, deadline=BOOTED),
    Sabotage("report-of-another-job", "from another job", guest=OTHER_JOB, deadline=BOOTED),
    # Its network.
    Sabotage("another-mac", "no adapter has the planned MAC", at_start=another_mac, deadline=LONG),
    Sabotage("adapter-left-out", "no adapter has the planned MAC", at_start=no_adapter, deadline=LONG),
    Sabotage("address-absent-and-report-lies", NO_PROBE, guest=LIES, deadline=LONG, quick=True),
    Sabotage(
        "gateway-unreachable",
        "gateway 10.20.30.99 does not answer",
        guest=OTHER_GATEWAY,
        mode=Mode.PLANNED,
        deadline=LONG,
    ),
    Sabotage("clock-far-off", "its clock is at least", P, at_start=redefined(years_ago), deadline=LONG),
)
