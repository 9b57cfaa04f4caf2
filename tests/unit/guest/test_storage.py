"""fstab and the boot loader's files: names change, nothing else does."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest.linux import storage
from refloat.guest.linux.edits import Rewritten
from refloat.guest.linux.storage import DeviceNames, crypttab, lvm, raid
from refloat.model import DiskBus, GuestFilesystem, Mount
from tests.unit.guest.guests import DATA_UUID, ORDER, ROOT_UUID, SWAP_UUID, filesystems

NAMES = DeviceNames(ORDER, filesystems())


def test_names_follow_the_order_of_the_disks() -> None:
    turned = DeviceNames(tuple(reversed(ORDER)), filesystems())
    assert NAMES.stable("/dev/sda1") == turned.stable("/dev/sdb1") == f"UUID={ROOT_UUID}"
    assert NAMES.stable("/dev/vdb1") == f"UUID={DATA_UUID}"


@pytest.mark.parametrize(
    "name", [f"UUID={ROOT_UUID}", "LABEL=x", "/dev/mapper/vg-root", "tmpfs", "/dev/sr0", "//a/b", "/swapfile"]
)
def test_stable_names_stay(name: str) -> None:
    assert NAMES.stable(name) is None


@pytest.mark.parametrize(
    "name", ["/dev/sdc1", "/dev/sda2", "/dev/sda", "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1",
             "/dev/disk/by-id/scsi-36000c29-part1"]
)  # fmt: skip
def test_names_without_a_meaning_are_an_error(name: str) -> None:
    with pytest.raises(LookupError):
        NAMES.stable(name)


def test_uuid_that_two_filesystems_share_is_not_used() -> None:
    twins = (*filesystems(), GuestFilesystem("disk-b", 2, "ext4", ROOT_UUID))
    with pytest.raises(LookupError, match="another filesystem"):
        DeviceNames(ORDER, twins).stable("/dev/sda1")


def test_filesystem_is_found_by_every_name() -> None:
    for name in ("/dev/sdb1", f"UUID={DATA_UUID}", f'UUID="{DATA_UUID}"', f"/dev/disk/by-uuid/{DATA_UUID}"):
        found = NAMES.find(name)
        assert found is not None and found.uuid == DATA_UUID
    assert NAMES.find("LABEL=") is None


def test_unmappable_entry_is_a_problem_unless_it_may_fail() -> None:
    text = "/dev/sdz1 /a ext4\n/dev/sdz2 /b ext4 nofail\n/dev/sdz3 /c ext4 noauto\n"
    done = storage.rewrite_fstab(text, NAMES)
    assert [problem.partition(":")[2][:1] for problem in done.problems] == ["1"]
    assert len(done.warnings) == 2
    assert not done.edits


def test_escaped_mount_point() -> None:
    assert storage.parse_fstab("/dev/sdb1 /my\\040data ext4")[0].mountpoint == "/my data"


_BLANK = st.text(" \t", min_size=1, max_size=3)
_WORD = st.text(string.ascii_letters + string.digits + "/-_=,:.", min_size=1, max_size=12)
_SPEC = st.sampled_from(
    ["/dev/sda1", "/dev/sda5", "/dev/sdb1", f"UUID={DATA_UUID}", "tmpfs", "/dev/sr0", "LABEL=sda1"]
)
_ENTRY = st.builds(
    lambda lead, spec, parts: lead + spec + "".join(blank + word for blank, word in parts),
    st.sampled_from(["", " ", "\t"]),
    _SPEC,
    st.lists(st.tuples(_BLANK, _WORD), min_size=1, max_size=6),
)
_COMMENT = st.builds(lambda text: f"#{text}", st.text(string.printable.replace("\n", ""), max_size=40))
_TEXT = st.builds(
    lambda lines, end: "\n".join(lines) + end,
    st.lists(st.one_of(_ENTRY, _COMMENT, st.just("")), max_size=8),
    st.sampled_from(["", "\n", "\n\n"]),
)
_MEANING = {"/dev/sda1": ROOT_UUID, "/dev/sda5": SWAP_UUID, "/dev/sdb1": DATA_UUID}


@given(_TEXT)
def test_fstab_only_first_fields_change(text: str) -> None:
    done = storage.rewrite_fstab(text, NAMES)
    old_lines, new_lines = text.split("\n"), done.text.split("\n")
    assert len(old_lines) == len(new_lines)
    for old, new in zip(old_lines, new_lines, strict=True):
        spec = old.split()[0] if old.split() else ""
        if old == new:
            continue
        assert new == old.replace(spec, f"UUID={_MEANING[spec]}", 1)
    assert storage.rewrite_fstab(done.text, NAMES).text == done.text
    assert not storage.rewrite_fstab(done.text, NAMES).edits


@given(st.text(string.printable, max_size=300))
def test_texts_without_device_names_stay(text: str) -> None:
    if "/dev/" not in text:
        assert storage.rewrite_fstab(text, NAMES).text == text


# ---------------------------------------------------------------- names

PARTITIONED = (
    replace(filesystems()[0], names=("PARTUUID=5ea0f10a-01", "PARTLABEL=my root")),
    GuestFilesystem("disk-a", 2, "LVM2_member", "pv-uuid", names=("PARTUUID=5ea0f10a-02",)),
    GuestFilesystem("disk-a", 3, "crypto_LUKS", DATA_UUID),
    GuestFilesystem("disk-a", 5, "", "", names=("PARTUUID=5ea0f10a-05",)),
    GuestFilesystem("disk-b", 1, "", ""),
    GuestFilesystem(
        "disk-a", 2, "xfs", SWAP_UUID, volume="/dev/vg-0/root", names=("/dev/mapper/vg--0-root",)
    ),
)
LAID_OUT = DeviceNames(ORDER, PARTITIONED)


@pytest.mark.parametrize(
    "name",
    ["/dev/vg-0/root", "/dev/mapper/vg--0-root", "/dev/disk/by-id/dm-name-vg--0-root", "UUID=" + SWAP_UUID],
)
def test_volumes_are_found_by_all_their_names_and_keep_them(name: str) -> None:
    assert LAID_OUT.find(name) is PARTITIONED[5]
    assert LAID_OUT.stable(name) is None


def test_partitions_are_found_by_what_the_table_says() -> None:
    for name in ("PARTUUID=5EA0F10A-01", "/dev/disk/by-partuuid/5ea0f10a-01", 'PARTLABEL="my root"'):
        assert LAID_OUT.find(name) is PARTITIONED[0]
    assert LAID_OUT.find("/dev/disk/by-partlabel/my\\x20root") is PARTITIONED[0]


def test_without_a_uuid_of_its_own_a_partition_is_named_by_the_table() -> None:
    assert LAID_OUT.stable("/dev/sda2") == "PARTUUID=5ea0f10a-02", "UUID= would not find a physical volume"
    assert LAID_OUT.stable("/dev/sda5") == "PARTUUID=5ea0f10a-05"
    with pytest.raises(LookupError, match="no UUID and no PARTUUID"):
        LAID_OUT.stable("/dev/sdb1")


def test_partuuid_that_two_disks_share_means_neither() -> None:
    twin = GuestFilesystem("disk-b", 1, "", "", names=("PARTUUID=5ea0f10a-05",))
    names = DeviceNames(ORDER, (*PARTITIONED[:4], twin))
    assert names.find("PARTUUID=5ea0f10a-05") is None
    with pytest.raises(LookupError):
        names.stable("/dev/sda5")


@pytest.mark.parametrize(
    "name",
    [
        "/dev/disk/by-id/dm-uuid-LVM-abc", "/dev/disk/by-id/md-uuid-1:2:3:4", "/dev/disk/by-id/lvm-pv-uuid-x",
        "/dev/md0", "/dev/md/root", "/dev/mapper/luks-x", "/dev/mapper/mpath-data", "PARTLABEL=x", "proc",
    ],
)  # fmt: skip
def test_names_made_from_the_content_stay(name: str) -> None:
    assert LAID_OUT.stable(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "/dev/disk/by-id/wwn-0x6000c29-part1", "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1",
        "/dev/mapper/mpatha1", "/dev/mapper/mpathb-part2", "/dev/mapper/36000c2912345678901234567890abcdp1",
        "/dev/disk/by-id/dm-name-mpatha", "/dev/disk/by-id/scsi-36000c29",
    ],
)  # fmt: skip
def test_names_bound_to_the_hardware_need_a_proof(name: str) -> None:
    with pytest.raises(LookupError, match="says nothing about the disk"):
        LAID_OUT.stable(name)


def test_a_proven_name_tells_its_whole_disk() -> None:
    """fstab lies on /, so its name for / is that of the disk on which it was found."""
    wwn = "/dev/disk/by-id/wwn-0x6000c29"
    names = DeviceNames(ORDER, (replace(PARTITIONED[0], names=(f"{wwn}-part1",)), *PARTITIONED[1:]))
    assert names.stable(f"{wwn}-part1") == f"UUID={ROOT_UUID}"
    assert names.stable(f"{wwn}-part5") == "PARTUUID=5ea0f10a-05"
    with pytest.raises(LookupError):
        names.stable("/dev/disk/by-id/wwn-0x5000-part1")


@pytest.mark.parametrize(
    ("order", "name", "disk"),
    [
        ("ab", "/dev/nvme0n1p1", "a"), ("ab", "/dev/nvme0n2p1", "b"), ("ab", "/dev/nvme1n1p1", "b"),
        ("abc", "/dev/nvme0n3p1", "c"), ("abc", "/dev/nvme1n1p1", ""), ("abc", "/dev/nvme2n1p1", ""),
        ("abcdefghijklmnopqrstuvwxyz0", "/dev/sdaa1", "0"), ("a", "/dev/sdb1", ""),
        ("a", "/dev/nvme0n0p1", ""),
    ],
)  # fmt: skip
def test_numbers_of_disks(order: str, name: str, disk: str) -> None:
    found = DeviceNames(order, [GuestFilesystem(key, 1, "ext4", f"u-{key}") for key in order]).find(name)
    assert (found.disk if found else "") == disk


# ---------------------------------------------------------------- fstab


def test_spec_and_options() -> None:
    text = "LABEL=my\\040data\t/my\\040data btrfs subvol=/@home,subvolid=257,nofail 0 0\r\n"
    entry = storage.parse_fstab(text)[0]
    assert (entry.spec, entry.mountpoint, entry.subvolume) == ("LABEL=my data", "/my data", "@home")
    assert entry.may_fail


def test_what_is_no_disk_stays() -> None:
    text = "".join(
        f"{line}\n"
        for line in [
            "/srv/a /mnt none bind", "tmpfs /tmp tmpfs", "nas:/x /x nfs", "//nas/y /y cifs",
            "/swapfile none swap",
            "overlay /o overlay lowerdir=/dev/sda1", "/dev/sr0 /cd iso9660 noauto", "#/dev/sdz1 / ext4",
        ]
    )  # fmt: skip
    assert storage.rewrite_fstab(text, NAMES) == Rewritten(text)


def test_subvolumes_of_one_filesystem() -> None:
    one = GuestFilesystem("disk-a", 1, "btrfs", ROOT_UUID)
    text = f"UUID={ROOT_UUID} / btrfs subvol=@\nUUID={ROOT_UUID} /home/ btrfs subvol=@home\n"
    text += "/dev/sda1 /old btrfs subvolid=5\n/dev/sda1 /top btrfs\n"
    placed = storage.with_mountpoints([one], storage.parse_fstab(text), DeviceNames(ORDER, [one]))[0]
    wanted = (Mount("/", "@"), Mount("/home", "@home"), Mount("/old", "subvolid=5"), Mount("/top"))
    assert (placed.mounts, placed.mountpoint) == (wanted, "/")


def test_devices_in_options_cannot_be_replaced() -> None:
    done = storage.rewrite_fstab(
        "UUID=x /a xfs logdev=/dev/sdb2\nUUID=y /b btrfs nofail,device=/dev/sdc\n", NAMES
    )
    assert "logdev=/dev/sdb2 names a device by its bus" in done.problems[0]
    assert "device=/dev/sdc" in done.warnings[0]


@given(st.text(max_size=400))
def test_any_text_at_all(text: str) -> None:
    """Never an error, and only specs change: put back, the text is what it was."""
    done = storage.rewrite_fstab(text, NAMES)
    lines = done.text.split("\n")
    for edit in reversed(done.edits):
        lines[edit.line - 1] = lines[edit.line - 1].replace(edit.new, edit.old, 1)
    assert "\n".join(lines) == text
    assert not storage.rewrite_fstab(done.text, NAMES).edits


# ---------------------------------------------------------------- crypttab


def test_crypttab() -> None:
    text = "# x\nluks  /dev/sda3\tnone luks\nswap /dev/sda5 /dev/urandom swap\ndata UUID=1 /root/key\n"
    done = storage.rewrite_crypttab(text, LAID_OUT)
    assert done.text == text.replace("/dev/sda3", f"UUID={DATA_UUID}").replace(
        "/dev/sda5", "PARTUUID=5ea0f10a-05"
    )
    assert not storage.rewrite_crypttab(done.text, LAID_OUT).edits


def test_a_signature_that_encryption_will_overwrite_is_no_name() -> None:
    names = DeviceNames(ORDER, (replace(filesystems()[1], names=("PARTUUID=5ea0f10a-05",)),))
    assert storage.rewrite_crypttab("swap /dev/sda5 /dev/urandom swap", names).text.split()[1] == (
        "PARTUUID=5ea0f10a-05"
    )
    assert "encrypted without LUKS" in storage.rewrite_crypttab("swap /dev/sda5", NAMES).problems[0]


def test_crypttab_keys_and_headers_on_devices() -> None:
    text = "a UUID=1 /dev/sdb1\nb UUID=2 none header=/dev/sdb,nofail\n"
    text += "c UUID=3 /key:/dev/sdb1\nd /dev/sdz none nofail"
    done = storage.rewrite_crypttab(text, LAID_OUT)
    assert [one.partition(": ")[0] for one in done.problems] == ["/etc/crypttab:1", "/etc/crypttab:3"]
    assert len(done.warnings) == 2


def test_what_a_boot_needs_to_unlock() -> None:
    text = "a UUID=1 none luks\nb UUID=2 /key\nc UUID=3 - tpm2-device=auto\nd UUID=4 none keyscript=/x\n"
    asks, token = crypttab.unlock_warnings(text)
    assert "a asks for its passphrase" in asks and "c is unlocked by tpm2-device=auto" in token


@given(st.text(max_size=300))
def test_any_crypttab(text: str) -> None:
    done = storage.rewrite_crypttab(text, LAID_OUT)
    assert len(done.text.split("\n")) == len(text.split("\n"))
    assert done.edits or done.text == text


# ---------------------------------------------------------------- mdadm.conf

MDADM = """\
# /dev/sda1
DEVICE /dev/sda1 /dev/sd[bc]1
   /dev/disk/by-id/wwn-1 /dev/nvme* # more
DEVICE partitions
ARRAY /dev/md0 UUID=b5a38bc6:eb0a1eee:fc1e3e7e:3d0d8b1e
   devices=/dev/sda1,/dev/sdb1 level=1
ARRAY /dev/md/x metadata=1.2 name=h:x
"""


def test_mdadm_conf() -> None:
    done = raid.rewrite_mdadm_conf(MDADM, "/etc/mdadm.conf")
    wanted = MDADM.replace("/dev/sda1 /dev/sd[bc]1\n", "partitions containers\n").replace(
        "devices=/dev/sda1,/dev/sdb1 level", "level"
    )
    wanted = wanted.replace("/dev/disk/by-id/wwn-1 /dev/nvme* #", "partitions containers #")
    assert done.text == wanted and not done.problems
    assert not raid.rewrite_mdadm_conf(done.text, "").edits
    arrays = raid.parse_mdadm_conf(MDADM)
    assert [(one.name, one.uuid) for one in arrays] == [
        ("/dev/md0", "b5a38bc6eb0a1eeefc1e3e7e3d0d8b1e"),
        ("/dev/md/x", ""),
    ]


def test_array_known_by_its_members_alone() -> None:
    done = raid.rewrite_mdadm_conf("ARRAY /dev/md0 devices=/dev/sda1,/dev/sdb1\n", "x")
    assert done.problems == ("x:1: this array is known by its members' names alone",)


@given(st.text(string.printable, max_size=300))
def test_any_mdadm_conf(text: str) -> None:
    done = raid.rewrite_mdadm_conf(text, "x")
    assert done.edits or done.text == text


# ---------------------------------------------------------------- LVM

DEVICES = """\
# LVM uses devices listed in this file.
VERSION=1.1.2
IDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2 PVID=abc PART=2
IDTYPE=crypt_uuid IDNAME=CRYPT-LUKS2-x DEVNAME=/dev/mapper/x PVID=def
"""


def test_a_devices_file_that_pins_old_disks_is_switched_off() -> None:
    done = lvm.switch_off(DEVICES, "", "local {\n}")
    assert done.text.startswith("local {\n}\n# ") and "use_devicesfile = 0" in done.text
    assert [(edit.line, edit.old) for edit in done.edits] == [(3, "sys_wwid naa.6000c29")]
    assert lvm.switch_off(DEVICES, "", done.text) == Rewritten(done.text), "once"


@pytest.mark.parametrize(
    ("devices", "conf"),
    [
        ("", ""),
        ("VERSION=1.1.2\n", ""),
        (DEVICES.replace("sys_wwid", "md_uuid"), ""),
        (DEVICES.replace("IDTYPE", "#IDTYPE"), ""),
        (DEVICES, "devices {\n\tuse_devicesfile=0 # why\n}\n"),
        (DEVICES, "devices/use_devicesfile = 0"),
    ],
)
def test_a_devices_file_that_pins_nothing_stays(devices: str, conf: str) -> None:
    assert lvm.switch_off(devices, conf, "x") == Rewritten("x")


@pytest.mark.parametrize(
    "conf", ["# use_devicesfile = 0\n", "use_devicesfile = 1\n", 'x = "use_devicesfile=0#"']
)
def test_devices_file_is_used_unless_said_otherwise(conf: str) -> None:
    assert lvm.switch_off(DEVICES, conf, "").edits


@pytest.mark.parametrize(
    ("text", "bus", "hides"),
    [
        ('filter = [ "a|/dev/sda.*|", "r|.*|" ]', DiskBus.VIRTIO_BLK, True),
        ('filter = [ "a|/dev/sda.*|", "r|.*|" ]', DiskBus.SATA, False),
        ('filter = [ "a|/dev/sda.*|", "a|/dev/vd|", "r|.*|" ]', DiskBus.VIRTIO_BLK, False),
        ('global_filter = [\n "a|^/dev/disk/by-id/x]|", # c\n"r|.*|" ]', DiskBus.SATA, True),
        ('# filter = [ "a|/dev/sda.*|", "r|.*|" ]', DiskBus.VIRTIO_BLK, False),
        ('filter = [ "r|/dev/sdb|", "a|.*|" ]', DiskBus.VIRTIO_BLK, False),
        ('filter = [ "a|/dev/mapper/x|", "r|.*|" ]', DiskBus.VIRTIO_BLK, False),
    ],
)
def test_filters(text: str, bus: DiskBus, hides: bool) -> None:
    problems = lvm.filter_problems(f"devices {{\n{text}\n}}\n", "/etc/lvm/lvm.conf", bus)
    assert bool(problems) == hides
    assert not problems or problems[0].startswith("/etc/lvm/lvm.conf:2: ")
