"""The matrix of real guests: what it covers, and that the default part stays small."""

from __future__ import annotations

from refloat.guest.families import FAMILIES
from refloat.model import Firmware
from tests.guests.build import environment, identity
from tests.guests.matrix import MATRIX
from tests.guests.packages import PACKAGES


def test_it_covers_what_is_promised() -> None:
    assert {case.suite for case in MATRIX} == {"bullseye", "bookworm", "trixie"}
    assert {case.firmware for case in MATRIX} == set(Firmware)
    assert {case.filesystem for case in MATRIX} == {"ext4", "xfs", "btrfs"}
    assert {case.layout for case in MATRIX} == {"plain", "lvm", "luks"}
    assert {case.initramfs_tool for case in MATRIX} == {"initramfs-tools", "dracut"}
    assert {case.network_stack for case in MATRIX} == {"ifupdown", "netplan", "networkmanager"}
    assert {case.cloud_init for case in MATRIX} == {"", "recorded", "unrecorded"}
    assert {case.esp_in_fstab for case in MATRIX if case.firmware is Firmware.UEFI} == {True, False}
    assert any(case.swapped and len(case.nics) > 1 for case in MATRIX)
    assert any(nic.address6 for case in MATRIX for nic in case.nics)
    assert {case.initramfs_tool for case in MATRIX if case.control} == {"initramfs-tools", "dracut"}


def test_rows_are_sound() -> None:
    names = [case.name for case in MATRIX]
    assert len(names) == len(set(names))
    assert sum(case.default for case in MATRIX) <= 5, "script/test may gain ten minutes at most"
    for case in MATRIX:
        assert case.packages in PACKAGES
        assert case.family in {family.name for family in FAMILIES}
        assert sum(bool(nic.gateway) for nic in case.nics) == 1


def test_a_guest_is_the_same_at_each_build() -> None:
    case = MATRIX[0]
    assert environment(case, "key") == environment(case, "key")
    assert identity(case, "root") != identity(MATRIX[1], "root")
