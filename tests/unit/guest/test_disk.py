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
from refloat.guest import disk
from refloat.guest.adapt import adapt
from refloat.guest.disk import CannotMount, find_filesystems, flush, mounted, mounted_system
from refloat.guest.inspect import inspect
from refloat.guest.linux import storage
from refloat.guest.tree import GuestFileError, Meta
from refloat.model import DiskBus, GuestFacts, Mount, NicModel
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


def test_a_label_that_a_shell_would_not_take(tmp_path: Path) -> None:
    """Sixteen bytes, with backslashes before what blkid writes behind one."""
    label = "\\ \\\\\" $`<a>'b"
    _run("mke2fs", "-q", "-t", "ext4", "-L", label, str(tmp_path / "image"), "4m")
    assert find_filesystems({"a": str(tmp_path / "image")})[0].filesystem.label == label


def test_root_by_partuuid(disks: dict[str, str]) -> None:
    """As Debian's cloud images name it."""
    found = find_filesystems(disks)[0].filesystem
    assert found.names == ("PARTUUID=5ea0f10a-01",)
    names = storage.DeviceNames(ORDER, [found])
    assert names.find("PARTUUID=5EA0F10A-01") is found
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


def test_writable_is_never_read_only_instead(
    disks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are there two of one filesystem at a time."""
    found = next(one for one in find_filesystems(disks) if one.filesystem.uuid == ROOT_UUID)
    writable = mounted(found, tmp_path / "second", writable=True)
    with mounted(found, tmp_path / "first"), monkeypatch.context() as patched:
        patched.setattr(disk, "_PATIENCE", 0.0)
        with pytest.raises(CannotMount, match="in use by /dev/loop"), writable:
            raise AssertionError("mounted, but read-only")
    with mounted(found, tmp_path / "second", writable=True) as root:
        (root / "written").write_bytes(b"")


def test_a_guest_that_was_switched_off_hard_can_be_looked_at(disks: dict[str, str], tmp_path: Path) -> None:
    """Its log is replayed, also when it is mounted read-only."""
    found = next(one for one in find_filesystems(disks) if one.filesystem.uuid == ROOT_UUID)
    image = Path(disks["disk-a"])
    with mounted(found, tmp_path / "running", writable=True) as root:
        (root / "etc/written-last").write_text("in the log alone")
        _run("sync", "-f", str(root))
        as_it_was = image.read_bytes()
    image.write_bytes(as_it_was)
    features = subprocess.run(["dumpe2fs", "-h", f"{image}?offset={START}"], capture_output=True, text=True)
    assert "needs_recovery" in features.stdout
    assert inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO).root.uuid == ROOT_UUID
    with mounted(found, tmp_path / "running") as root:
        assert (root / "etc/written-last").read_text() == "in the log alone"


def test_two_roots_are_ambiguous_and_none_is_said(
    disks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # others inspect meanwhile
    twin = tmp_path / "twin.raw"
    shutil.copy(disks["disk-a"], twin)
    with pytest.raises(Refused, match="more than one"):
        inspect({**disks, "disk-b": str(twin)}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with pytest.raises(Refused, match=r"no root filesystem .* was found.*disk-b partition 1: ext4"):
        inspect({"disk-b": disks["disk-b"]}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert str(tmp_path) not in mounts()


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
    with pytest.raises(Refused, match="no boot loader"):
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


# ---------------------------------------------------------------- other filesystems, several systems


def _system(tmp_path: Path, kind: str, fstab: str, subvolumes: tuple[str, ...] = ()) -> str:
    """A disk without partitions that holds a guest; on btrfs in the first of `subvolumes`."""
    image, where = tmp_path / f"{kind}.raw", tmp_path / f"{kind}.mnt"
    with image.open("wb") as handle:
        handle.truncate(320 * MIB)
    _run(f"mkfs.{kind}", "-q", str(image))
    where.mkdir()
    _run("mount", "-o", "loop", str(image), str(where))
    try:
        for name in subvolumes:
            _run("btrfs", "subvolume", "create", str(where / name))
        root = where / subvolumes[0] if subvolumes else where
        shutil.copytree(make_guest(tmp_path / f"{kind}.guest"), root, symlinks=True, dirs_exist_ok=True)
        for name in ("boot/grub/grub.cfg", "etc/default/grub", "etc/initramfs-tools/conf.d/resume"):
            text = (root / name).read_text()
            (root / name).write_text(text.replace("/dev/sda1", "UUID=x").replace("/dev/sda5", "none"))
        (root / "etc/fstab").write_text(fstab)
    finally:
        _run("umount", str(where))
    return str(image)


@contextmanager
def _btrfs(image: str, tmp_path: Path) -> Iterator[Path]:
    """Its top level."""
    _run("mount", "-o", "loop,subvolid=5", image, str(tmp_path / "btrfs.mnt"))
    try:
        yield tmp_path / "btrfs.mnt"
    finally:
        _run("umount", str(tmp_path / "btrfs.mnt"))


def _facts(image: str) -> GuestFacts:
    return inspect({"disk-a": image}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)


def test_xfs(tmp_path: Path) -> None:
    image = _system(tmp_path, "xfs", "/dev/sda / xfs defaults 0 0\n")
    facts = _facts(image)
    assert (facts.root.kind, facts.problems) == ("xfs", ())
    done = adapt(request(facts), {"disk-a": image}, facts, tmp_path / "run", quiet)
    assert f"+UUID={facts.root.uuid} / xfs" in next(c.diff for c in done.changes if c.path == "/etc/fstab")
    assert _facts(image).unstable_names == ()
    _run("xfs_repair", "-n", image)


def test_btrfs_in_a_subvolume(tmp_path: Path) -> None:
    fstab = "/dev/sda / btrfs subvol=/@,compress=zstd 0 0\n/dev/sda /home btrfs subvol=@home 0 0\n"
    image = _system(tmp_path, "btrfs", fstab, ("@", "@home"))
    with _btrfs(image, tmp_path) as top:
        _run("btrfs", "subvolume", "snapshot", str(top / "@"), str(top / "yesterday"))
    facts = _facts(image)
    assert facts.problems == ()
    assert facts.root.mounts == (Mount("/", "@"), Mount("/home", "@home"))
    done = adapt(request(facts), {"disk-a": image}, facts, tmp_path / "run", quiet)
    with _btrfs(image, tmp_path) as top:
        assert (top / "@/etc/fstab").read_text() == fstab.replace("/dev/sda", f"UUID={facts.root.uuid}")
        assert (top / "yesterday/etc/fstab").read_text() == fstab, "a snapshot is not touched"
    again = adapt(request(facts), {"disk-a": image}, facts, tmp_path / "run", quiet)
    assert again == done


def test_btrfs_that_was_turned_back_is_mounted_again(tmp_path: Path) -> None:
    """The kernel remembers a device by its UUID and refuses an older state of it unless it forgets."""
    image = _system(tmp_path, "btrfs", "/dev/sda / btrfs defaults 0 0\n")
    before = Path(image).read_bytes()
    facts = _facts(image)
    adapt(request(facts), {"disk-a": image}, facts, tmp_path / "run", quiet)
    Path(image).write_bytes(before)
    assert _facts(image) == facts


def test_btrfs_on_a_block_device(tmp_path: Path) -> None:
    image = _system(tmp_path, "btrfs", "/dev/sda / btrfs subvol=@ 0 0\n", ("@",))
    attach = ["losetup", "--find", "--show", image]
    node = subprocess.run(attach, text=True, check=True, capture_output=True).stdout.strip()
    try:
        assert _facts(node).root.mounts == (Mount("/", "@"),)
    finally:
        _run("losetup", "--detach", node)


def test_btrfs_root_in_the_default_subvolume(tmp_path: Path) -> None:
    """As openSUSE has it: fstab names none, and a rollback makes another the default."""
    image = _system(tmp_path, "btrfs", "/dev/sda / btrfs defaults 0 0\n", ("one", "two"))
    with _btrfs(image, tmp_path) as top:
        shutil.copytree(top / "one", top / "two", symlinks=True, dirs_exist_ok=True)
        (top / "two/etc/hostname").write_text("second\n")
        _run("btrfs", "subvolume", "set-default", str(top / "two"))
    facts = _facts(image)
    assert (facts.hostname, facts.root.mounts) == ("second", (Mount("/"),))


def test_two_systems_in_one_btrfs_are_ambiguous(tmp_path: Path) -> None:
    image = _system(tmp_path, "btrfs", "/dev/sda / btrfs subvol=@ 0 0\n", ("@", "@other"))
    with _btrfs(image, tmp_path) as top:
        shutil.copytree(top / "@", top / "@other", symlinks=True, dirs_exist_ok=True)
        (top / "@other/etc/fstab").write_text("/dev/sda / btrfs subvol=@other 0 0\n")
    with pytest.raises(Refused, match=r"subvolume @, .*subvolume @other"):
        _facts(image)


def test_the_copy_of_a_root_is_told_by_its_own_fstab(disks: dict[str, str], tmp_path: Path) -> None:
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    with _root(disks, facts, tmp_path) as root:
        text = (root / "etc/fstab").read_text()
        (root / "etc/fstab").write_text(text.replace("/dev/sda1", f"UUID={ROOT_UUID}"))
    shutil.copy(disks["disk-a"], disks["disk-b"])
    _run("e2fsck", "-fp", f"{disks['disk-b']}?offset={START}")
    _run("tune2fs", "-U", DATA_UUID, f"{disks['disk-b']}?offset={START}")
    assert inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO).root.disk == "disk-a"


def test_a_filesystem_that_cannot_be_mounted_is_said(disks: dict[str, str]) -> None:
    _run("sfdisk", "-q", disks["disk-b"], text="label: dos\n2048,8192,L\n")  # it is larger than that
    facts = inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert any("cannot mount disk-b partition 1" in one for one in facts.warnings), facts.warnings
    with pytest.raises(Refused, match="cannot mount disk-b"):
        inspect({"disk-b": disks["disk-b"]}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("UUID=gone /boot ext4 defaults", "/boot is UUID=gone, which was not found"),
        ("UUID=gone /boot ext4 nofail", "/boot is UUID=gone, which was not found"),
        ("/srv/usr /usr none bind", "/usr is /srv/usr, which was not found"),
        ("UUID=gone /boot/efi vfat nofail", ""),
    ],
)
def test_a_part_of_the_system_that_is_not_here(
    disks: dict[str, str], tmp_path: Path, line: str, problem: str
) -> None:
    with _root(disks, _facts_of_both(disks), tmp_path) as root, (root / "etc/fstab").open("a") as fstab:
        fstab.write(f"{line}\n")
    facts = _facts_of_both(disks)
    if problem:
        assert any(problem in one for one in facts.problems)
    else:
        assert any("UUID=gone" in one for one in facts.warnings)


def test_a_name_by_path_that_fstab_proves(disks: dict[str, str], tmp_path: Path) -> None:
    path = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0"
    with _root(disks, _facts_of_both(disks), tmp_path) as root:
        text = (root / "etc/fstab").read_text()
        text = text.replace("/dev/sda1", f"{path}-part1").replace("/dev/sda5", f"{path}-part5")
        (root / "etc/fstab").write_text(text)
    facts = _facts_of_both(disks)
    assert facts.problems == ()
    done = adapt(request(facts), disks, facts, tmp_path / "run", quiet)
    diff = next(one.diff for one in done.changes if one.path == "/etc/fstab")
    assert f"+UUID={ROOT_UUID}" in diff and f"+UUID={SWAP_UUID}" in diff and f"+{path}" not in diff


def _facts_of_both(disks: dict[str, str]) -> GuestFacts:
    return inspect(disks, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
