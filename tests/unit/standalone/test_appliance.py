"""What the appliance shows, in Refloat's words. A double answers as libguestfs 1.48 did, with its disks found
in another order than they were added.
"""

from __future__ import annotations

from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.stack import Volumes
from refloat.standalone.appliance import _label
from refloat.standalone.appliance_volumes import volumes

KEY = "correct horse"
CONTAINER = "a2d16723-1e30-40bb-abea-b233cd154f85"
DISKS = {"/dev/sdb": "sda", "/dev/sda": "sdb", "/dev/sdc": "sdc"}
TAGS = {
    "/dev/sdb1": {
        "TYPE": "ext4",
        "UUID": "u-boot",
        "LABEL": "my\\ \\ boot",
        "PART_ENTRY_UUID": "CA8DFA09",
        "PART_ENTRY_NAME": "EFI\\ system",
        "PART_ENTRY_TYPE": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    },
    "/dev/sdb2": {"TYPE": "crypto_LUKS", "UUID": CONTAINER},
    "/dev/sdb3": {"PART_ENTRY_TYPE": "0x5"},
    "/dev/sda1": {"TYPE": "linux_raid_member", "UUID": "u-md", "LABEL": "(none):r0"},
    "/dev/sdc1": {"TYPE": "linux_raid_member", "UUID": "u-md", "LABEL": "(none):r0"},
    "/dev/md127": {"TYPE": "ext4", "UUID": "u-data"},
    f"/dev/mapper/luks-{CONTAINER}": {"TYPE": "LVM2_member", "UUID": "pv"},
    "/dev/vg-0/root": {"TYPE": "ext4", "UUID": "u-root"},
    "/dev/vg-0/before": {"TYPE": "ext4", "UUID": "u-root"},
}


class Appliance:
    """Its calls that are used, as guestfs(3) has them."""

    def __init__(self, key: str = KEY) -> None:
        self.key = key
        self.is_open = False

    def blkid(self, node: str) -> dict[str, str]:
        if node not in TAGS:
            raise RuntimeError("blkid: exited with status 2")
        return TAGS[node]

    def vfs_label(self, node: str) -> str:
        return TAGS[node]["LABEL"].replace("\\", "")

    def list_partitions(self) -> list[str]:
        return ["/dev/sda1", "/dev/sdb1", "/dev/sdb2", "/dev/sdb3", "/dev/sdc1"]

    def part_to_dev(self, node: str) -> str:
        return node[:-1]

    def part_to_partnum(self, node: str) -> int:
        return int(node[-1])

    def list_md_devices(self) -> list[str]:
        return ["/dev/md127"]

    def md_stat(self, node: str) -> list[dict[str, Any]]:
        return [{"mdstat_device": "/dev/sdc1"}, {"mdstat_device": "/dev/sda1"}]

    def md_detail(self, node: str) -> dict[str, str]:
        return {"uuid": "cd2e8c20:412f1c87:5bd59f0a:e809bc0b", "name": "(none):r0"}

    def cryptsetup_open(self, node: str, key: str, name: str) -> None:
        if key != self.key:
            raise RuntimeError("cryptsetup_open: No key available with this passphrase.")
        assert (node, name) == ("/dev/sdb2", f"luks-{CONTAINER}")

    def lvm_scan(self, activate: bool) -> None:
        self.is_open = activate

    def lvs(self) -> list[str]:
        return ["/dev/vg-0/before", "/dev/vg-0/root"] if self.is_open else []

    def lvuuid(self, node: str) -> str:
        return "Ee0U-adUU" if node.endswith("root") else "1UhN-SNTZ"

    def lvs_full(self) -> list[dict[str, str]]:
        attributes = {"Ee0UadUU": "-wi-a-----", "1UhNSNTZ": "swi-a-----"}
        return [{"lv_uuid": uuid, "lv_attr": one} for uuid, one in attributes.items()]

    def vgs(self) -> list[str]:
        return ["vg-0"]

    def vgs_full(self) -> list[dict[str, str]]:
        return [{"vg_name": "vg-0", "vg_uuid": "GrouP"}]

    def vgpvuuids(self, group: str) -> list[str]:
        return ["vhxp-bphf"]

    def pvs_full(self) -> list[dict[str, str]]:
        return [{"pv_name": f"/dev/mapper/luks-{CONTAINER}", "pv_uuid": "vhxpbphf"}]


def rows(here: Volumes) -> list[tuple[str, int, str, str]]:
    found = [one.filesystem for one in here.found]
    return [(one.disk, one.partition, one.kind, one.volume) for one in found]


def test_everything_is_on_the_disk_on_which_it_lies() -> None:
    here = volumes(Appliance(), DISKS, {CONTAINER.upper(): KEY})
    assert rows(here) == [
        ("sda", 1, "ext4", ""),
        ("sda", 2, "crypto_LUKS", ""),
        ("sdb", 1, "linux_raid_member", ""),
        ("sdc", 1, "linux_raid_member", ""),
        ("sdb", 1, "ext4", "/dev/md/r0"),
        ("sda", 2, "LVM2_member", f"/dev/mapper/luks-{CONTAINER}"),
        ("sda", 2, "ext4", "/dev/vg-0/root"),
    ]
    assert here.closed == ()


def test_names_are_those_of_the_guest() -> None:
    here = volumes(Appliance(), DISKS, {CONTAINER: KEY})
    esp, *_, array, _, root = [one.filesystem for one in here.found]
    assert (esp.label, esp.esp) == ("my  boot", True)
    assert esp.names == ("PARTUUID=ca8dfa09", "PARTLABEL=EFI system")
    assert array.names[0] == "/dev/disk/by-id/md-uuid-cd2e8c20:412f1c87:5bd59f0a:e809bc0b"
    assert root.names == ("/dev/mapper/vg--0-root", "/dev/disk/by-id/dm-uuid-LVM-GrouPEe0UadUU")


def test_a_container_without_its_passphrase_stays_closed() -> None:
    here = volumes(Appliance(), DISKS, {})
    assert not any(volume.startswith("/dev/vg-0") for *_, volume in rows(here))
    assert here.closed == (
        f"the LUKS container {CONTAINER} on sda partition 2: crypto_LUKS stays closed: "
        "there is no passphrase for it",
    )
    with pytest.raises(Refused, match="opens none of its key slots"):
        volumes(Appliance(), DISKS, {CONTAINER: "another"})


def test_labels_of_disks_are_letters_alone() -> None:
    labels = [_label(index) for index in range(300)]
    assert len(set(labels)) == 300
    assert all(label.isalpha() and label.isascii() for label in labels)
