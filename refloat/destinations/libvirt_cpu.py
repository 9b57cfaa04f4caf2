"""Which processor the guest of a libvirt domain sees: its features, as /proc/cpuinfo names them.

A CPU model's name says too little: libvirt's Haswell has no abm and no f16c, QEMU's has both. But libvirt
asks QEMU at each start what became of the model and writes it into the live XML (check="full"); so a
domain that runs is asked, and its features come from there.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from collections.abc import Iterable

import libvirt

from refloat.libvirt_connection import is_connection_error

log = logging.getLogger(__name__)

_NAMES = {"pclmuldq": "pclmulqdq", "tsc-deadline": "tsc_deadline_timer"}
_SPELLING = str.maketrans("-.", "__")
_HAS = ("require", "force")


def guest_flags(connection: libvirt.virConnect, live: str, defined: str) -> frozenset[str] | None:
    """The features that the next start will show, too; None where that is not known.

    `live` is the XML of the domain that runs, `defined` what its next start uses. Raises libvirtError
    where libvirt does not answer.
    """
    root, next_root = ET.fromstring(live), ET.fromstring(defined)
    cpu = _measured(connection, root)
    if cpu is None or not _same_definition(root, next_root):
        return None
    try:
        expanded = connection.baselineHypervisorCPU(
            *_hypervisor(root),
            [ET.tostring(cpu, encoding="unicode")],
            libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
        )
    except libvirt.libvirtError as error:
        if is_connection_error(error):
            raise
        log.debug("the CPU of %s: %s", root.findtext("name"), error)
        return None
    return cpuinfo_names(present(expanded)) or None


def _measured(connection: libvirt.virConnect, root: ET.Element) -> ET.Element | None:
    """The model with what differs from it; of host-passthrough what the hypervisor can give of the host."""
    cpu = root.find("cpu")
    if cpu is None or _hypervisor(root)[1] != "x86_64":
        return None
    if cpu.get("mode") == "host-passthrough":
        capabilities = ET.fromstring(connection.getDomainCapabilities(*_hypervisor(root)))
        mode = capabilities.find("cpu/mode[@name='host-model'][@supported='yes']")
        return None if mode is None else _plain(mode)
    return _plain(cpu) if cpu.get("check") == "full" else None


def _plain(source: ET.Element) -> ET.Element:
    cpu = ET.Element("cpu", mode="custom", match="exact")
    cpu.extend(element for element in source if element.tag in ("model", "vendor", "feature"))
    return cpu


def _same_definition(live: ET.Element, defined: ET.Element) -> bool:
    """Whether what runs tells of the next start, also after a promotion: Refloat then defines the model
    alone (see DomainSpec), and features that the definition adds to it or takes from it are lost."""
    if defined.find("cpu/feature") is not None:
        return False
    # host-model runs as whichever model libvirt found for the host.
    return _model(defined) in ("host-model", _model(live))


def _model(root: ET.Element) -> str:
    cpu = root.find("cpu")
    if cpu is None:
        return ""
    mode = cpu.get("mode", "custom")
    return (cpu.findtext("model") or "").strip() if mode == "custom" else mode


def _hypervisor(root: ET.Element) -> tuple[str | None, str, str, str]:
    """Emulator, architecture, machine and domain type: what libvirt's questions about CPUs begin with."""
    kind = root.find("os/type")
    arch, machine = ("", "") if kind is None else (kind.get("arch", ""), kind.get("machine", ""))
    return root.findtext("devices/emulator"), arch, machine, root.get("type", "")


def present(cpu: str) -> frozenset[str]:
    """libvirt's names of the features that an expanded <cpu> has."""
    features = ET.fromstring(cpu).findall("feature")
    return frozenset(one.get("name", "") for one in features if one.get("policy", "require") in _HAS)


def cpuinfo_names(features: Iterable[str]) -> frozenset[str]:
    """libvirt's names of features as the guest's /proc/cpuinfo spells them."""
    return frozenset(_NAMES.get(name, name.translate(_SPELLING)) for name in features)
