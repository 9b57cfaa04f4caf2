"""What libvirt and QEMU say of a domain now: pure readers of live XML and of monitor output."""

from __future__ import annotations

import ipaddress
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from refloat.destinations.libvirt_xml import QEMU_NS, closed_netdev


@dataclass(frozen=True)
class BlockJob:
    kind: str  # "active-commit"
    ready: bool


@dataclass(frozen=True)
class LiveDisk:
    """A disk as attached: `chain` are the volumes below `volume`, nearest first (live XML only)."""

    target: str
    serial: str
    volume: str
    format: str
    chain: tuple[str, ...] = ()
    job: BlockJob | None = None


@dataclass(frozen=True)
class LiveNic:
    """`netdev` is QEMU's id of the backend that really carries this NIC; `subnet` of user segments only."""

    mac: str
    alias: str
    netdev: str
    linked: bool
    subnet: ipaddress.IPv4Network | None
    closed: bool


@dataclass(frozen=True)
class Forward:
    """A TCP forward of a user-mode segment: 127.0.0.1:`local_port` leads to `address`:`port`."""

    netdev: str
    local_port: int
    address: str
    port: int


def parse_disks(xml: str) -> tuple[LiveDisk, ...]:
    """The disks of a domain's XML, live or persistent, in its order."""
    disks = []
    for element in ET.fromstring(xml).findall("devices/disk"):
        if element.get("device", "disk") != "disk":
            continue
        target = _attribute(element, "target", "dev")
        serial = (element.findtext("serial") or target).strip()
        kind = _attribute(element, "driver", "type")
        disks.append(LiveDisk(target, serial, source_path(element), kind, _chain(element), _job(element)))
    return tuple(disks)


def source_path(element: ET.Element) -> str:
    return _attribute(element, "source", "file") or _attribute(element, "source", "dev")


def _attribute(parent: ET.Element, path: str, name: str) -> str:
    element = parent.find(path)
    return "" if element is None else element.get(name, "")


def _chain(disk: ET.Element) -> tuple[str, ...]:
    return tuple(path for layer in disk.iter("backingStore") if (path := source_path(layer)))


def _job(disk: ET.Element) -> BlockJob | None:
    mirror = disk.find("mirror")
    return None if mirror is None else BlockJob(mirror.get("job", "copy"), mirror.get("ready") == "yes")


def attached_paths(xml: str) -> frozenset[str]:
    """Every path that a domain's XML names anywhere as a source: disks, chains, mirrors, CD-ROMs, NVRAM."""
    root = ET.fromstring(xml)
    paths = {
        node.get(name, "")
        for node in root.iter()
        for name in ("file", "dev")
        if node.tag in ("source", "mirror")
    }
    paths.update((node.text or "").strip() for node in root.iter("nvram"))
    return frozenset(path for path in paths if path)


def parse_nics(xml: str) -> tuple[LiveNic, ...]:
    root = ET.fromstring(xml)
    closed = {
        device.get("alias", "")
        for device in root.iter(f"{{{QEMU_NS}}}device")
        if device.find(f".//{{{QEMU_NS}}}property[@name='netdev']") is not None
    }
    nics = []
    for element in root.findall("devices/interface"):
        alias = _attribute(element, "alias", "name")
        address = _attribute(element, "ip[@family='ipv4']", "address")
        prefix = _attribute(element, "ip[@family='ipv4']", "prefix")
        subnet = f"{address}/{prefix}" if address else "10.0.2.0/24"
        nics.append(
            LiveNic(
                mac=_attribute(element, "mac", "address").lower(),
                alias=alias,
                netdev=closed_netdev(alias) if alias in closed else f"host{alias}",
                linked=_attribute(element, "link", "state") != "down",
                subnet=ipaddress.IPv4Network(subnet) if element.get("type") == "user" else None,
                closed=alias in closed,
            )
        )
    return tuple(nics)


_SEGMENT = re.compile(r"^\S.*\((?P<netdev>[^()]+)\):")
_FORWARD = re.compile(
    r"^\s+TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(?P<local>\d+)\s+(?P<address>[\d.]+)\s+(?P<port>\d+)\s"
)


def parse_forwards(usernet: str) -> tuple[Forward, ...]:
    """The forwards in the output of QEMU's `info usernet`."""
    netdev, forwards = "", []
    for line in usernet.splitlines():
        if heading := _SEGMENT.match(line):
            netdev = heading["netdev"]
        elif row := _FORWARD.match(line):
            forwards.append(Forward(netdev, int(row["local"]), row["address"], int(row["port"])))
    return tuple(forwards)


def is_closed(network: str, nic: LiveNic) -> bool:
    """Whether QEMU's `info network` shows this NIC on a restricted segment, and on nothing else."""
    lines = [line.strip() for line in network.splitlines()]
    for index, line in enumerate(lines):
        if line.startswith(f"{nic.alias}:"):
            peers = lines[index + 1 : index + 2]
            return bool(peers) and peers[0].startswith(f"\\ {nic.netdev}:") and "restrict=on" in peers[0]
    return False
