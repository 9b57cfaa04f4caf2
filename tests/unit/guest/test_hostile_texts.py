"""Texts that are made to take long: every reader is done in a time that grows with the text alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from refloat.guest.families import parse_os_release
from refloat.guest.linux import pins, tools, udev_names
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.linux.storage.lvm import filter_problems
from refloat.model import DiskBus, GuestFilesystem

SIZE = 200_000
NAMES = DeviceNames(["scsi0"], [GuestFilesystem("scsi0", 1, "ext4", "u-1")])
WAIT = "usr/lib/dracut/hooks/initqueue/finished/devexists-x.sh"
READERS: dict[str, Callable[[str], object]] = {
    "lvm filter": lambda text: filter_problems(text, "/etc/lvm/lvm.conf", DiskBus.VIRTIO_BLK),
    "mkinitcpio": lambda text: tools.mkinitcpio_conf(text, tools.Drivers(("virtio_blk",), ())),
    "link file": lambda text: (udev_names._LINK_ADDRESS.findall(text), udev_names._LINK_NAME.findall(text)),
    "dracut's wait": lambda text: pins.mended({WAIT: text}, NAMES, DiskBus.VIRTIO_BLK),
    "os-release": parse_os_release,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "part",
    ["MODULES=(\n", 'filter=["', "filter=[", 'filter=[ "a|/dev/sda|", ', "\n", "root=/dev/sda1 ", "a="],
)
def test_a_part_that_is_repeated_without_end(reader: str, part: str) -> None:
    started = time.process_time()
    READERS[reader](part * (SIZE // len(part)))
    assert time.process_time() - started < 5


def test_link_files_are_read_as_before() -> None:
    text = "[Match]\r\n MACAddress = 00:50:56:AA:bb:cc \r\n[Link]\nName=lan0\n"
    assert udev_names._LINK_ADDRESS.findall(text) == ["00:50:56:AA:bb:cc"]
    assert udev_names._LINK_NAME.findall(text) == ["lan0"]
