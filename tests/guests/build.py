"""Building the guests of the matrix: a row of packages, made into a disk as VMware's guests have it.

Each step is cached by its content. No installer runs, and nothing but Debian packages is used.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from refloat.command import run
from refloat.lab.cache import content_key, entry
from refloat.model import Firmware
from tests.guests.controller import in_controller
from tests.guests.machine import first_life
from tests.guests.matrix import DNS, GuestCase
from tests.guests.packages import ISOLATED, packages_key, packages_tar

_HERE = Path(__file__).parent
_SCRIPTS = ("guest.sh", "disk.sh")
PASSPHRASE = "correct-horse"  # of LUKS guests
_TIMEOUT = 600  # seconds
_MIB = 3072
# Host keys, users, passwords, and the instances that cloud-init has seen.
WHO = """\
cat /etc/ssh/ssh_host_*.pub
sha256sum /etc/shadow /etc/passwd
ls /var/lib/cloud/instances 2>/dev/null || :
"""
_WHO_NOW = 'mount -o ro,loop,offset=1048576 "$1" "$2" && chroot "$2" sh -c "$3" >"$4"'
_NAMESPACE = uuid.UUID("5c1f9a7e-2d4b-4e0a-9b5d-6f0f1c2a7d11")


@dataclass(frozen=True)
class Guest:
    """A built guest: its disk (copy it, never write it), the key that gets in by SSH, and what WHO says of it
    on the source."""

    disk: Path
    key: Path
    identity: Path


def identity(case: GuestCase, what: str) -> str:
    """A UUID of this guest's own: the same for each build."""
    return str(uuid.uuid5(_NAMESPACE, f"{case.name} {what}"))


def environment(case: GuestCase, key: str) -> dict[str, str]:
    """All that guest.sh and disk.sh vary by."""
    spec = {
        "plain": "/dev/sda1" if case.firmware is Firmware.BIOS else "/dev/sda2",
        "lvm": "/dev/mapper/vg0-root",
        "luks": "/dev/mapper/sda2_crypt",
    }[case.layout]
    rows = [(nic.name, nic.address, nic.gateway, nic.address6, nic.gateway6) for nic in case.nics]
    own_boot = case.layout != "plain"
    return {
        "NAME": case.name,
        "TOOL": case.initramfs_tool,
        "STACK": case.network_stack,
        "FILESYSTEM": case.filesystem,
        "LAYOUT": case.layout,
        "FIRMWARE": case.firmware.value,
        "ESP": "" if case.firmware is Firmware.BIOS else "fstab" if case.esp_in_fstab else "unnamed",
        "CLOUD_INIT": case.cloud_init,
        "NICS": "\n".join(" ".join(field or "-" for field in row) for row in rows),
        "DNS": DNS,
        "KEY": key,
        "ROOT_SPEC": spec,
        "ROOT_UUID": identity(case, "root"),
        "BOOT_UUID": identity(case, "boot" if own_boot else "root"),
        "LUKS_UUID": identity(case, "luks"),
        "MACHINE_ID": identity(case, "machine").replace("-", ""),
        "DISK_ID": f"0x{identity(case, 'disk')[:8]}",
        "ESP_ID": identity(case, "esp")[:8],
        "WHO": WHO,
    }


def built(case: GuestCase) -> Guest:
    """The guest's disk, from the cache or built now: minutes for a new row of packages, else seconds."""
    key = _key()
    public = key.with_suffix(".pub").read_text().strip()
    variables = environment(case, public)
    names = _SCRIPTS if case.layout == "plain" else (*_SCRIPTS, "volumes.sh")
    scripts = b"".join((_HERE / name).read_bytes() for name in names)
    parts = [f"{name}={value}" for name, value in variables.items()]

    def build(directory: Path) -> None:
        tar = packages_tar(case.suite, case.packages)
        argv = [*ISOLATED, "sh", str(_HERE / "disk.sh"), str(directory), str(tar), str(_HERE), str(_MIB)]
        run(argv, timeout=_TIMEOUT, env=variables)
        if case.layout != "plain":
            _volumes(directory, variables)
        if case.initramfs_tool == "dracut":
            first_life([directory / "system.raw"], (), directory)
        if case.cloud_init == "recorded":
            _first_boot_of_an_instance(case, directory)

    made_of = content_key("1", packages_key(case.suite, case.packages), scripts, *parts)
    directory = entry(f"guest-{case.name}", made_of, build)
    return Guest(directory / "system.raw", key, directory / "identity")


def _volumes(directory: Path, variables: dict[str, str]) -> None:
    """Fills a disk that needs a device-mapper, from the tree that disk.sh left."""
    tree = directory / "tree.tar"
    with tree.open("r+b") as handle:
        handle.truncate(-(-tree.stat().st_size // 4096) * 4096)
    names = ("LAYOUT", "ROOT_UUID", "BOOT_UUID", "LUKS_UUID")
    head = "".join(f"{name}={variables[name]}\n" for name in names) + f"PASSPHRASE={PASSPHRASE}\n"
    job = head + (_HERE / "volumes.sh").read_text()
    in_controller(directory, job, {"guest": directory / "system.raw", "tree": tree}, {})
    tree.unlink()


def _first_boot_of_an_instance(case: GuestCase, directory: Path) -> None:
    """cloud-init makes the machine from the seed that disk.sh left: it is another than it was built."""
    seed, system, where = directory / "seed.img", directory / "system.raw", directory / "mnt"
    first_life([system, seed], case.nics, directory)
    seed.unlink()
    where.mkdir()
    argv = ["sh", "-c", _WHO_NOW, "sh", str(system), str(where), WHO, str(directory / "identity")]
    run([*ISOLATED, *argv], timeout=_TIMEOUT)
    where.rmdir()


def _key() -> Path:
    """A key pair for the tests of this machine; the guests let it in."""

    def build(directory: Path) -> None:
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(directory / "key")])

    return entry("guest-key", "1".ljust(12, "0"), build) / "key"
