"""What a guest's own files call the volumes that were found, and that adapting finds the same ones again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refloat.errors import Refused
from refloat.guest.adapt import same_system
from refloat.guest.linux.storage import parse_fstab
from refloat.guest.notes import Notes
from refloat.guest.probe import Found
from refloat.guest.root import Texts, check_entries, device_names, place
from refloat.guest.stack import Volumes
from refloat.model import GuestFilesystem
from tests.unit.builders import FACTS
from tests.unit.guest.guests import ORDER, ROOT_UUID

LUKS = "0a1b2c3d-1111-4222-8333-444455556666"
BY_ID = "/dev/disk/by-id/md-uuid-b5a38bc6:eb0a1eee:fc1e3e7e:3d0d8b1e"


def found(*filesystems: GuestFilesystem) -> list[Found]:
    return [Found(one, "/dev/none") for one in filesystems]


def luks() -> list[Found]:
    return found(
        GuestFilesystem("disk-a", 2, "crypto_LUKS", LUKS),
        GuestFilesystem("disk-a", 2, "ext4", ROOT_UUID, volume=f"/dev/mapper/luks-{LUKS}"),
    )


def problems(placed: tuple[Found, ...], fstab: str) -> list[str]:
    notes = Notes()
    root = next(one for one in placed if one.filesystem.mountpoint == "/")
    check_entries(root, parse_fstab(fstab), device_names(placed, ORDER), notes)
    return notes.problems


@pytest.mark.parametrize(
    ("crypttab", "name"),
    [
        (f"croot UUID={LUKS.upper()} none luks", "croot"),
        ("croot /dev/sda2 none luks", "croot"),
        ("", "from-the-command-line"),
        ("other UUID=elsewhere", f"luks-{LUKS}"),
    ],
)
def test_a_container_has_the_name_that_the_guest_gives_it(crypttab: str, name: str) -> None:
    fstab = f"/dev/mapper/{name} / ext4 defaults 0 1\n"
    here = luks()
    placed = place(here, here[1], Texts(fstab, crypttab), ORDER)
    assert placed[1].filesystem.volume == f"/dev/mapper/{name}"
    assert placed[1].filesystem.mountpoint == "/"
    assert problems(placed, fstab) == []


def test_an_fstab_that_means_another_container_is_a_problem() -> None:
    here = luks()
    fstab = "/dev/mapper/data / ext4\n"
    two = [*here, Found(GuestFilesystem("disk-b", 0, "ext4", "y", volume="/dev/mapper/data"), "/dev/none")]
    placed = place(two, two[1], Texts(fstab), ORDER)
    assert "says that / is /dev/mapper/data, but it was found on" in problems(placed, fstab)[0]


@pytest.mark.parametrize(
    ("mdadm_conf", "name"),
    [
        ("ARRAY /dev/md0 UUID=b5a38bc6:eb0a1eee:fc1e3e7e:3d0d8b1e", "/dev/md/0"),
        ("ARRAY /dev/md/root metadata=1.2 UUID=b5a38bc6:eb0a1eee:fc1e3e7e:3d0d8b1e", "/dev/md/root"),
        ("", "/dev/md127"),
        ("", BY_ID),
    ],
)
def test_arrays(mdadm_conf: str, name: str) -> None:
    here = found(
        GuestFilesystem("disk-a", 1, "linux_raid_member", "b5a38bc6-eb0a-1eee-fc1e-3e7e3d0d8b1e"),
        GuestFilesystem("disk-a", 1, "xfs", ROOT_UUID, volume="/dev/md/x", names=(BY_ID,)),
    )
    fstab = f"{name} / xfs defaults 0 0\n"
    placed = place(here, here[1], Texts(fstab, mdadm_conf=mdadm_conf), ORDER)
    assert problems(placed, fstab) == []


def test_a_number_means_nothing_where_there_are_two_arrays() -> None:
    other = BY_ID.replace("b5a3", "c5a3")
    here = found(
        GuestFilesystem("disk-a", 1, "xfs", ROOT_UUID, volume="/dev/md/x", names=(BY_ID,)),
        GuestFilesystem("disk-a", 2, "xfs", "other", volume="/dev/md/y", names=(other,)),
    )
    fstab = "/dev/md127 / xfs\n"
    assert "says that / is /dev/md127" in problems(place(here, here[0], fstab, ORDER), fstab)[0]


def test_adapting_knows_renamed_volumes_again() -> None:
    here = luks()
    fstab = "/dev/mapper/croot / ext4\n"
    placed = place(here, here[1], fstab, ORDER)
    facts = replace(FACTS, filesystems=tuple(one.filesystem for one in placed))
    assert same_system(Volumes(tuple(luks())), facts) == placed
    locked = Volumes(tuple(luks()[:1]), ("it stays closed: there is no passphrase for it",))
    with pytest.raises(Refused, match=r"/dev/mapper/croot is not there any more; it stays closed"):
        same_system(locked, facts)
    changed = replace(luks()[1], filesystem=replace(luks()[1].filesystem, uuid="new"))
    with pytest.raises(Refused, match="not the filesystem that was inspected"):
        same_system(Volumes((luks()[0], changed)), facts)
