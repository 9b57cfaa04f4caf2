"""Finding and mounting a guest's filesystems, on small images and with the host's own kernel."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.guest.adapt import adapt
from refloat.guest.disk import find_filesystems, flush, mounted_system
from refloat.guest.inspect import inspect
from refloat.guest.linux import storage
from refloat.guest.tree import GuestFileError, Meta
from refloat.model import DiskBus, GuestFacts, NicModel
from tests.unit.guest.guests import DATA_UUID, ORDER, ROOT_UUID, SWAP_UUID, make_guest, request

START = 1024 * 1024
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


def _run(*argv: str, text: str = "") -> None:
    subprocess.run(argv, input=text, text=True, check=True, capture_output=True)


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, str]:
    """A root disk with a root and a logical swap partition, and a data disk; raw images."""
    guest = make_guest(tmp_path / "guest")
    (guest / "proc").mkdir(exist_ok=True)
    system, data = tmp_path / "system.raw", tmp_path / "data.raw"
    _image(system, "2048,40960,L,*\n43008,,E\n45056,8192,S\n")
    _ext4(system, 20, ROOT_UUID, guest)
    swap = tmp_path / "swap"
    swap.write_bytes(bytes(4 * MIB))
    _run("mkswap", "-q", "-U", SWAP_UUID, str(swap))
    with system.open("r+b") as handle:
        handle.seek(45056 * 512)
        handle.write(swap.read_bytes())
    _image(data, "2048,,L\n")
    (tmp_path / "empty").mkdir()
    _ext4(data, 8, DATA_UUID, tmp_path / "empty")
    return {"disk-a": str(system), "disk-b": str(data)}


def _image(path: Path, table: str) -> None:
    with path.open("wb") as handle:
        handle.truncate(32 * MIB)
    _run("sfdisk", "-q", str(path), text=f"label: dos\nlabel-id: 0x5ea0f10a\n{table}")


def _ext4(image: Path, mib: int, uuid: str, content: Path) -> None:
    where = ("-E", f"offset={START}", str(image), f"{mib}m")
    _run("mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", str(content), *where)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def quiet(step: str, figures: dict[str, object]) -> None:
    pass


def test_every_partition_is_found(disks: dict[str, str]) -> None:
    found = [one.filesystem for one in find_filesystems(disks)]
    assert [(one.disk, one.partition, one.kind, one.uuid) for one in found] == [
        ("disk-a", 1, "ext4", ROOT_UUID),
        ("disk-a", 5, "swap", SWAP_UUID),
        ("disk-b", 1, "ext4", DATA_UUID),
    ]


def test_root_by_partuuid(disks: dict[str, str], tmp_path: Path) -> None:
    """As Debian's cloud images name it."""
    found = find_filesystems(disks)[0]
    assert found.partuuid == "5ea0f10a-01"
    names = storage.DeviceNames(ORDER, [], {found.partuuid: found.filesystem})
    assert names.find("PARTUUID=5EA0F10A-01") is found.filesystem
    assert names.stable("PARTUUID=5ea0f10a-01") is None


def test_inspect_then_adapt(disks: dict[str, str], tmp_path: Path) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert facts.problems == ()
    assert facts.root.uuid == ROOT_UUID
    data_before = digest(disks["disk-b"])
    done = adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert digest(disks["disk-b"]) == data_before, "a pure data disk is not touched"
    assert str(tmp_path) not in mounts()
    after = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert (after.unstable_names, after.kernels[0].missing) == ((), ())
    again = adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert again == done
    _run("e2fsck", "-fn", f"{disks['disk-a']}?offset={START}")


def test_unmounted_after_a_failure(disks: dict[str, str], tmp_path: Path) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    found = [one for one in find_filesystems(disks) if one.filesystem.uuid == ROOT_UUID]
    found = [type(one)(facts.root, one.node, one.offset, one.size) for one in found]
    with pytest.raises(RuntimeError), mounted_system(found, tmp_path / "mnt") as tree:
        assert tree.is_file("/etc/fstab")
        with pytest.raises(GuestFileError, match="Read-only"):
            tree.replace_file("/etc/fstab", (b"x",), Meta(0o644))
        raise RuntimeError
    assert str(tmp_path) not in mounts()


def test_mount_left_by_a_killed_run_is_removed(disks: dict[str, str], tmp_path: Path) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    left = tmp_path / "run/mnt"
    left.mkdir(parents=True)
    _run("mount", "-o", f"loop,offset={START}", disks["disk-a"], str(left))
    adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert str(left) not in mounts()


def test_two_roots_are_ambiguous_and_none_is_said(disks: dict[str, str], tmp_path: Path) -> None:
    twin = tmp_path / "twin.raw"
    shutil.copy(disks["disk-a"], twin)
    with pytest.raises(Refused, match="more than one"):
        inspect({**disks, "disk-b": str(twin)}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with pytest.raises(Refused, match=r"no Linux root filesystem was found.*disk-b partition 1: ext4"):
        inspect({"disk-b": disks["disk-b"]}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert "refloat-inspect-" not in mounts()


def test_image_that_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(b"no disk" * 1000)
    with pytest.raises(Refused, match="partition 0: nothing known"):
        inspect({"a": str(tmp_path / "x.raw")}, ("a",), DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with pytest.raises(Refused, match="there is no disk a"):
        inspect({"a": str(tmp_path / "missing")}, ("a",), DiskBus.VIRTIO_BLK, NicModel.VIRTIO)


def test_other_disks_than_inspected_are_refused(disks: dict[str, str], tmp_path: Path) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    before = digest(disks["disk-a"])
    _run("tune2fs", "-U", DATA_UUID, f"{disks['disk-a']}?offset={START}")
    changed = digest(disks["disk-a"])
    assert changed != before
    with pytest.raises(Refused, match="not the filesystem that was inspected"):
        adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert digest(disks["disk-a"]) == changed


def test_a_guest_that_ran_on_since_its_inspection_is_looked_at_again(
    disks: dict[str, str], tmp_path: Path
) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with _root(disks, facts, tmp_path) as root:
        text = (root / "etc/fstab").read_text()
        (root / "etc/fstab").write_text(f"{text}/dev/sdb1 /srv ext4 defaults 0 2\n")
        kernel = root / facts.kernels[0].initramfs.lstrip("/")
        kernel.write_bytes(kernel.read_bytes() + bytes(512))
    done = adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert len(done.facts.unstable_names) == len(facts.unstable_names) + 1
    assert done.facts.kernels[0].stamp != facts.kernels[0].stamp
    assert f"UUID={DATA_UUID} /srv" in next(c.diff for c in done.changes if c.path == "/etc/fstab")


def test_trouble_since_the_inspection_is_refused_before_any_change(
    disks: dict[str, str], tmp_path: Path
) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with _root(disks, facts, tmp_path) as root:
        (root / "boot/grub/grub.cfg").unlink()
    with pytest.raises(Refused, match="only GRUB 2"):
        adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    assert not (tmp_path / "run/journal.jsonl").exists()


def test_a_system_that_mounts_its_boot_from_elsewhere_by_now_is_refused(
    disks: dict[str, str], tmp_path: Path
) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with _root(disks, facts, tmp_path) as root:
        text = (root / "etc/fstab").read_text()
        (root / "etc/fstab").write_text(f"/dev/sdb1 /boot ext4 defaults 0 2\n{text}")
    with pytest.raises(Refused, match="mounted elsewhere than when the guest was inspected"):
        adapt(request(facts), disks, facts, tmp_path / "run", quiet)


@contextmanager
def _root(disks: dict[str, str], facts: GuestFacts, tmp_path: Path) -> Iterator[Path]:
    """The guest's root, to be changed as its own users would."""
    _run("mount", "-o", f"loop,offset={START}", disks[facts.root.disk], str(tmp_path / "empty"))
    try:
        yield tmp_path / "empty"
    finally:
        _run("umount", str(tmp_path / "empty"))


def test_flush_takes_files_and_devices(disks: dict[str, str]) -> None:
    flush(disks)
