"""`refloat guest` with the libguestfs appliance: its own kernel opens the disks, so it can do more than the
kernel of this machine may. It starts several times in each test, which takes minutes without KVM.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.host import KERNEL
from refloat.model import GuestFacts
from refloat.standalone import tool
from refloat.standalone.appliance import ApplianceHost
from refloat.standalone.evidence import Evidence
from refloat.standalone.images import Image, look
from tests.unit.guest.guests import make_guest
from tests.unit.guest.test_disk import disks as disks
from tests.unit.standalone.test_tool import WISHES, files, quiet

guestfs = pytest.importorskip("guestfs", reason="needs python3-guestfs")

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]
PASSPHRASE = "correct horse battery staple"
MIB = 1024 * 1024


@pytest.fixture
def host() -> ApplianceHost:
    return ApplianceHost(lambda text: None)


def test_adapted_and_undone(disks: dict[str, str], host: ApplianceHost, tmp_path: Path) -> None:
    paths = [tmp_path / f"{key}.qcow2" for key in disks]
    for raw, path in zip(disks.values(), paths, strict=True):
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, str(path)], check=True)
    images = tuple(map(look, paths))
    before = files(images[0], tmp_path)
    assert _plain(tool.inspect(images, WISHES, host)) == _plain(tool.inspect(images, WISHES, KERNEL))
    evidence = Evidence(tmp_path / "evidence")
    done = tool.adapt(images, WISHES, evidence, host, quiet)
    assert done.changes
    assert files(images[0], tmp_path) != before
    assert set(tool.undo(images, evidence, {}, host)) <= {change.path for change in done.changes}
    assert files(images[0], tmp_path) == before


def _plain(facts: GuestFacts) -> GuestFacts:
    """Without what tells this look at a file from the next."""
    return replace(facts, kernels=tuple(replace(kernel, stamp="") for kernel in facts.kernels))


# ---------------------------------------------------------------- LVM in LUKS, and an array


def _appliance(*paths: Path) -> Any:
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    g.set_backend_settings(["force_tcg"])
    g.set_memsize(2048)
    for name, path in zip("abc", paths, strict=False):
        g.add_drive_opts(str(path), format="raw", label=f"test{name}")
    g.launch()
    return g


def _encrypted(tmp_path: Path) -> tuple[tuple[Image, ...], str]:
    """A guest with /boot beside a root on LVM in LUKS, and an array on its second and third disk; and the
    UUID of its container."""
    paths = tuple(tmp_path / f"{name}.raw" for name in ("system", "left", "right"))
    for path, size in zip(paths, (200, 40, 40), strict=True):
        with path.open("wb") as handle:
            handle.truncate(size * MIB)
    g = _appliance(*paths)
    system, *halves = (g.list_disk_labels()[f"test{name}"] for name in "abc")
    for disk in halves:
        g.part_disk(disk, "mbr")
    g.md_create("data", [f"{disk}1" for disk in halves], level="raid1")
    g.mkfs("ext4", g.list_md_devices()[0])
    g.part_init(system, "gpt")
    g.part_add(system, "p", 2048, 43007)
    g.part_add(system, "p", 43008, -2049)
    g.mkfs("ext4", f"{system}1")
    g.luks_format(f"{system}2", PASSPHRASE, 0)
    g.cryptsetup_open(f"{system}2", PASSPHRASE, "inside")
    g.pvcreate("/dev/mapper/inside")
    g.vgcreate("vg-0", ["/dev/mapper/inside"])
    g.lvcreate("root", "vg-0", 120)
    g.mkfs("ext4", "/dev/vg-0/root")
    container, boot = g.vfs_uuid(f"{system}2"), g.vfs_uuid(f"{system}1")
    guest = make_guest(tmp_path / "guest")
    (guest / "etc/fstab").write_text(
        f"/dev/mapper/vg--0-root / ext4 errors=remount-ro 0 1\nUUID={boot} /boot ext4 defaults 0 2\n"
    )
    (guest / "etc/crypttab").write_text(f"crypt UUID={container} none luks\n")
    for name in ("boot/grub/grub.cfg", "etc/default/grub", "etc/initramfs-tools/conf.d/resume"):
        text = (guest / name).read_text()
        (guest / name).write_text(text.replace("/dev/sda1", f"UUID={boot}").replace("/dev/sda5", "none"))
    tar = tmp_path / "guest.tar"
    subprocess.run(["tar", "-c", "--owner=0", "--group=0", "-f", str(tar), "-C", str(guest), "."], check=True)
    g.mount("/dev/vg-0/root", "/")
    g.mkdir("/boot")
    g.mount(f"{system}1", "/boot")
    g.tar_in(str(tar), "/")
    g.umount_all()
    g.shutdown()
    g.close()
    return tuple(map(look, paths)), container


def _contents(images: tuple[Image, ...], tmp_path: Path) -> dict[str, str]:
    """Path -> checksum of every file on the guest's root and /boot, inside LVM and LUKS."""
    g = _appliance(images[0].path)
    g.cryptsetup_open("/dev/sda2", PASSPHRASE, "inside")
    g.lvm_scan(True)
    g.mount_ro("/dev/vg-0/root", "/")
    g.mount_ro("/dev/sda1", "/boot")
    sums = tmp_path / "sums"
    g.checksums_out("sha256", "/", str(sums))
    g.close()
    return {path: digest for digest, path in (line.split("  ", 1) for line in sums.read_text().splitlines())}


def test_a_root_on_lvm_in_luks(host: ApplianceHost, tmp_path: Path) -> None:
    images, container = _encrypted(tmp_path)
    before = _contents(images, tmp_path)
    keys = {container: PASSPHRASE}
    wishes = tool.Wishes(adapters=WISHES.adapters, keys=keys)
    evidence = Evidence(tmp_path / "evidence")
    with pytest.raises(Refused, match="opens none of its key slots"):
        tool.adapt(images, replace(wishes, keys={container: "another"}), evidence, host, quiet)
    done = tool.adapt(images, wishes, evidence, host, quiet)
    found = [(one.disk, one.partition, one.kind, one.volume) for one in done.facts.filesystems]
    assert found == [
        ("sda", 1, "ext4", ""),
        ("sda", 2, "crypto_LUKS", ""),
        ("sdb", 1, "linux_raid_member", ""),
        ("sdc", 1, "linux_raid_member", ""),
        ("sdb", 1, "ext4", "/dev/md/data"),
        ("sda", 2, "LVM2_member", "/dev/mapper/crypt"),
        ("sda", 2, "ext4", "/dev/vg-0/root"),
    ]
    assert done.facts.root.volume == "/dev/vg-0/root" and not done.facts.problems
    adapted = _contents(images, tmp_path)
    assert {path for path in adapted if adapted[path] != before.get(path)} == {
        f".{change.path}" for change in done.changes if change.after.sha256
    }
    tool.undo(images, evidence, keys, host)
    assert _contents(images, tmp_path) == before
