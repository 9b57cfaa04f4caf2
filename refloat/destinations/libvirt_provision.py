"""Controllers made on a libvirt, also a remote one: by volumes and streams, never by a path here.

    PREFIX-controller.raw   the own disk: the site's image or template, with the seed in it
    PREFIX-0.raw, ...       the replica volumes, empty, in the order of the source's disks

The domain is defined last: that it exists says that its volumes are whole.
"""

from __future__ import annotations

import ipaddress
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import libvirt

from refloat.controller import seed as seed_of
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_layers import Layers
from refloat.destinations.libvirt_spec import (
    AttachKind,
    DiskSpec,
    DomainSpec,
    DomainType,
    NetworkAttach,
)
from refloat.destinations.libvirt_upload import raw_size, upload_at, upload_image, volume_xml
from refloat.destinations.libvirt_volumes import VolumePool, refresh
from refloat.destinations.provisioner import Say
from refloat.errors import Failed, NotFound, Refused
from refloat.libvirt_connection import Connection, libvirt_errors
from refloat.model import AttachedNic, ReplicaDisk, WantedController
from refloat.text import size as size_text

OWN_SERIAL = "rf-controller"
_LABEL = "provision"  # of the domain: the wish's id
_POOLS = ("dir", "netfs")  # where layers, which are files, can lie
_ADDRESS_WITHIN = 180.0  # seconds
_POLL = 1.0
_FIRST_GUEST = 15  # QEMU's user-mode network gives its first guest this host number


class LibvirtProvisioner:
    """Provisioner (provisioner.py) on the libvirt at `uri`; `storage` of a wish names a pool."""

    def __init__(self, uri: str, networks: Mapping[str, NetworkAttach]) -> None:
        self._connection = Connection(uri)
        self._destination = LibvirtDestination(uri, networks)
        self._domains = Domains(self._connection)

    def check(self, wanted: WantedController) -> None:
        nic = self._destination.nic_spec(AttachedNic(wanted.mac, wanted.network))
        _require_reachable(wanted, nic.attach)
        pool = self._pool(wanted)
        with libvirt_errors(f"read the pool {wanted.storage}"):
            kind = ET.fromstring(pool.XMLDesc()).get("type", "")
            free = pool.info()[3]
        if kind not in _POOLS:
            raise Refused(
                f"storage pool {wanted.storage} is of type {kind}",
                code="bad_pool",
                hint=f"rollback points are files: use a pool of type {' or '.join(_POOLS)}",
            )
        self._domain(wanted)
        needed = self._own_size(wanted) + sum(disk.capacity for disk in wanted.disks)
        if needed > free and not wanted.thin:
            raise Refused(
                f"storage pool {wanted.storage} has {size_text(free)} free, and the replica may grow to "
                f"{size_text(needed)}",
                code="no_space",
                hint="choose another pool, or say `thin: true` where you watch its free space yourself",
            )

    def make(self, wanted: WantedController, seed: bytes, say: Say) -> tuple[ReplicaDisk, ...]:
        if self._domain(wanted) is None:
            for number, disk in enumerate(wanted.disks):
                say(f"making the volume of {disk.key}")
                self._make_empty(wanted, _volume(wanted, str(number)), disk.capacity)
            say("making the controller's own disk")
            self._make_own(wanted, seed)
            say(f"defining the VM {wanted.vm}")
            self._destination.create(self._spec(wanted))
        return tuple(ReplicaDisk(disk.key, wanted.serial(number)) for number, disk in enumerate(wanted.disks))

    def address(self, wanted: WantedController) -> str:
        if wanted.address:
            return wanted.address.partition("/")[0]
        attach = self._destination.nic_spec(AttachedNic(wanted.mac, wanted.network)).attach
        if attach.kind is AttachKind.USER:
            return str(ipaddress.IPv4Network(attach.subnet)[_FIRST_GUEST])
        deadline = time.monotonic() + _ADDRESS_WITHIN
        while time.monotonic() < deadline:
            found = self._leased(wanted)
            if found:
                return found
            time.sleep(_POLL)
        raise Failed(
            f"VM {wanted.vm} got no address in {wanted.network} within {_ADDRESS_WITHIN:.0f} s",
            code="no_address",
            hint="has the libvirt network DHCP? or give the controller an `address`",
        )

    def left(self, wanted: WantedController) -> tuple[str, ...]:
        found = [] if self._domain(wanted) is None else [f"VM {wanted.vm}"]
        return (*found, *(f"volume {name}" for name in self._names(wanted)))

    def remove(self, wanted: WantedController) -> None:
        spec = self._domain(wanted)
        if spec is not None and (not spec.disks or spec.disks[0].serial != OWN_SERIAL):
            raise Refused(
                f"VM {wanted.vm} does not boot from the controller's disk: it is a recovered VM",
                code="in_use",
                hint="roll its failover back first",
            )
        if spec is not None:
            self._destination.destroy(wanted.vm)
        volumes = VolumePool(self._connection, wanted.storage)
        layers = Layers(self._domains, volumes)
        directory = self._directory(wanted)
        for name in self._names(wanted):
            layers.delete_unused(f"{directory}/{name}")

    # ------------------------------------------------------------ what there is

    def _domain(self, wanted: WantedController) -> DomainSpec | None:
        """The VM of this wish. Raises Refused where another VM has its name."""
        try:
            spec = self._domains.spec(self._domains.lookup(wanted.vm))
        except NotFound:
            return None
        if (_LABEL, wanted.id) not in spec.labels:
            raise Refused(
                f"libvirt already has a VM {wanted.vm}, which was not made for target {wanted.target}",
                code="vm_exists",
                hint="give the controller another name with `vm:`",
            )
        return spec

    def _pool(self, wanted: WantedController) -> libvirt.virStoragePool:
        with libvirt_errors(f"look up the pool {wanted.storage}"):
            return VolumePool(self._connection, wanted.storage).named()

    def _directory(self, wanted: WantedController) -> str:
        with libvirt_errors(f"read the pool {wanted.storage}"):
            return ET.fromstring(self._pool(wanted).XMLDesc()).findtext("target/path") or ""

    def _names(self, wanted: WantedController) -> list[str]:
        """Of the volumes of this wish, layers on them included."""
        pool = self._pool(wanted)
        with libvirt_errors(f"list the pool {wanted.storage}"):
            refresh(pool)  # QEMU makes layers behind libvirt's back
            names = [volume.name() for volume in pool.listAllVolumes()]
        return sorted((name for name in names if name.startswith(wanted.prefix)), reverse=True)

    def _own_size(self, wanted: WantedController) -> int:
        if wanted.image:
            return raw_size(Path(wanted.image))
        path = f"{self._directory(wanted)}/{wanted.template}"
        template = VolumePool(self._connection, wanted.storage).find(path)
        if template is None:
            raise Refused(
                f"pool {wanted.storage} has no volume {wanted.template}",
                code="no_template",
                hint="upload the controller's image there, or name a file of the hub with `image:`",
            )
        return template.capacity

    # ------------------------------------------------------------ how it is made

    def _make_empty(self, wanted: WantedController, name: str, capacity: int) -> None:
        pool = self._pool(wanted)
        with libvirt_errors(f"create volume {name}"):
            try:
                pool.createXML(volume_xml(name, capacity))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                    raise  # of an earlier attempt: its name has the id, and nothing was written to it

    def _make_own(self, wanted: WantedController, seed: bytes) -> None:
        """Anew each time: without the domain nobody knows how far an earlier attempt came."""
        pool, name = self._pool(wanted), _volume(wanted, "controller")
        with libvirt_errors(f"make volume {name}"):
            if name in self._names(wanted):
                pool.storageVolLookupByName(name).delete()
            xml = volume_xml(name, self._own_size(wanted))
            if wanted.image:
                volume = pool.createXML(xml)
                upload_image(self._connection.get(), volume, Path(wanted.image))
            else:
                volume = pool.createXMLFrom(xml, pool.storageVolLookupByName(wanted.template))
            if seed:
                upload_at(self._connection.get(), volume, seed_of.OFFSET, seed)

    def _spec(self, wanted: WantedController) -> DomainSpec:
        directory = self._directory(wanted)
        kind = self._destination.domain_type()
        own = DiskSpec(OWN_SERIAL, f"{directory}/{_volume(wanted, 'controller')}", "raw")
        replicas = (
            DiskSpec(wanted.serial(number), f"{directory}/{_volume(wanted, str(number))}", "raw")
            for number in range(len(wanted.disks))
        )
        spec = controller_spec(wanted.vm, str(uuid.uuid4()), kind, wanted.cpus, wanted.memory)
        nic = self._destination.nic_spec(AttachedNic(wanted.mac, wanted.network))
        return replace(spec, disks=(own, *replicas), nics=(nic,), labels=((_LABEL, wanted.id),))

    def _leased(self, wanted: WantedController) -> str:
        domain = self._domains.lookup(wanted.vm)
        with libvirt_errors(f"ask for the address of {wanted.vm}"):
            found = domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
        for interface in found.values():
            if interface["hwaddr"] == wanted.mac:
                for one in interface["addrs"] or ():
                    return str(one["addr"])
        return ""


def controller_spec(name: str, identity: str, kind: DomainType, cpus: int, memory: int) -> DomainSpec:
    """A controller's domain but for its disks and NICs. `memory` in bytes."""
    return DomainSpec(
        name=name,
        uuid=identity,
        type=kind,
        cpus=cpus,
        memory=memory,
        role="controller",
        cpu_model="host-model" if kind is DomainType.KVM else "qemu64",
    )


def _volume(wanted: WantedController, part: str) -> str:
    return f"{wanted.prefix}{part}.raw"


def _require_reachable(wanted: WantedController, attach: NetworkAttach) -> None:
    if attach.kind is AttachKind.BRIDGE and not wanted.address:
        raise Refused(
            f"network {wanted.network} is a bridge: libvirt does not know which address DHCP gives there",
            code="address_needed",
            hint="give the controller an `address`, or use a libvirt network with DHCP",
        )
    if attach.restrict:
        raise Refused(
            f"network {wanted.network} is closed: a controller must be reached",
            code="network_closed",
            hint="name a management network",
        )
