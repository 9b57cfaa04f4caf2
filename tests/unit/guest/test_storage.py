"""fstab and the boot loader's files: names change, nothing else does."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest.linux import storage
from refloat.guest.linux.storage import DeviceNames
from refloat.model import GuestFilesystem
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


def test_crypttab_by_bus_name_is_a_problem() -> None:
    assert storage.crypttab_problems("# x\nluks /dev/sda3 none luks\ndata UUID=1 none\n") == (
        "/etc/crypttab:2: /dev/sda3 is encrypted and named by its bus",
    )
