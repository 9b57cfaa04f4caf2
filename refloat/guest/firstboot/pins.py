"""An adapter's old name, tied to its planned MAC: for guests whose own configuration is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from refloat.guest.tree import Tree
from refloat.model import NicModel, PlannedNic

_LINK_DIRECTORY = "/etc/systemd/network"
# The name sorts before the distribution's rules, which leave alone what has a name already.
_RULES = "/etc/udev/rules.d/70-refloat-names.rules"
_SETUP_LINK = "rules.d/80-net-setup-link.rules"
_BASES = ("/usr/lib/udev", "/lib/udev")

_DRIVERS = {NicModel.VIRTIO: "virtio_net", NicModel.VMXNET3: "vmxnet3", NicModel.E1000E: "e1000e"}

_LINK = """\
# Written by Refloat: this machine's own configuration names the adapter {name}, which the hardware that it
# was recovered onto would call otherwise.
[Match]
MACAddress={mac}
Driver={driver}

[Link]
Name={name}
"""
_RULES_HEAD = """\
# Written by Refloat: this machine's own configuration names these adapters, which the hardware that it was
# recovered onto would call otherwise.
"""
# Bridges, bonds and VLANs repeat an adapter's MAC: only an adapter has a driver.
_RULE = 'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", NAME="{name}"\n'


class Naming(StrEnum):
    """What names network interfaces in a guest."""

    LINK = "link files"  # systemd-udevd from 209 on
    RULES = "udev rules"  # older, eudev, or where the link files were switched off
    NONE = "nothing"  # mdev


def naming_of(tree: Tree) -> Naming:
    """By the rule that reads link files: it belongs to the udev that can, and an administrator who wants
    the kernel's names masks it."""
    masked = tree.stat(f"/etc/udev/{_SETUP_LINK}", follow=False) is not None
    if not masked and any(tree.is_file(f"{base}/{_SETUP_LINK}") for base in _BASES):
        return Naming.LINK
    if any(tree.is_directory(f"{base}/rules.d") for base in _BASES):
        return Naming.RULES
    return Naming.NONE


def pins(nics: Sequence[PlannedNic], model: NicModel, naming: Naming) -> dict[str, str]:
    """The files that tie names: path -> text. None where nothing would read them: the first boot then
    reports the adapter that is called otherwise."""
    pinned = [(index, nic) for index, nic in enumerate(nics) if nic.pin]
    if naming is Naming.LINK:
        return {
            f"{_LINK_DIRECTORY}/10-refloat-{index}.link": _LINK.format(
                mac=nic.mac.lower(), name=nic.pin, driver=_DRIVERS[model]
            )
            for index, nic in pinned
        }
    if naming is Naming.RULES and pinned:
        rules = "".join(_RULE.format(mac=nic.mac.lower(), name=nic.pin) for _, nic in pinned)
        return {_RULES: _RULES_HEAD + rules}
    return {}
