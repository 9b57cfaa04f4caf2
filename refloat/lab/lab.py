"""`refloat lab up|status|down`: everything that a failover needs, in the local libvirt."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from refloat.command import run
from refloat.destinations.libvirt import LibvirtDestination
from refloat.errors import NotFound, Refused
from refloat.estate import load_estate
from refloat.lab.domains import controller_spec, source_xml
from refloat.lab.estate import SYSTEM_SERIAL, TARGET, render_config, render_estate
from refloat.lab.hub import hub_pid, start_hub, stop_hub
from refloat.lab.images import InjectedFile, SourceImages, both_images, personalise
from refloat.lab.layout import SOURCE_ADDRESS, Lab
from refloat.lab.waiting import wait_for_banner, wait_for_sync
from refloat.libvirt_connection import Connection, libvirt_errors, translate
from refloat.model import PowerState
from refloat.platforms import Platforms

Say = Callable[[str], None]
NEEDS_BYTES = 6 << 30  # sparse files: what a lab and its images really fill


@dataclass(frozen=True)
class Status:
    source: str
    controller: str
    hub: str
    directory: Path


def up(lab: Lab, say: Say) -> None:
    """Makes what is missing of the lab, starts it, and brings its target to a first complete sync point.

    Safe to repeat; after a failover it says what to do instead of guessing.
    """
    make(lab, say)
    _require_unspent(lab)
    _start_vms(lab, say)
    start_hub(lab)
    say("first sync, while the source VM boots")
    wait_for_sync(lab, TARGET, say)
    wait_for_banner(_destination(lab), lab.source_vm, SOURCE_ADDRESS)
    say(f"the lab is up: target {TARGET} is ready")


def make(lab: Lab, say: Say) -> None:
    """Makes what is missing of the lab and starts nothing. Safe to repeat."""
    _require_host(lab)
    if not lab.estate.exists():
        down(lab, lambda _: None)  # what a killed `make` left
        _create(lab, say)


def status(lab: Lab) -> Status:
    """What is there. Raises NotFound for a lab that was never made."""
    if not lab.estate.exists():
        raise NotFound(f"no lab in {lab.directory}", code="no_lab", hint="make one with `refloat lab up`")
    destination = _destination(lab)
    pid = hub_pid(lab)
    return Status(
        source=destination.power_state(lab.source_vm),
        controller=destination.power_state(lab.controller_vm),
        hub=f"running, pid {pid}, http://{lab.listen}" if pid else "off",
        directory=lab.directory,
    )


def is_spent(lab: Lab) -> bool:
    """True when the controller has become the recovered VM: no second failover from here."""
    if not lab.estate.exists():
        return False
    return _destination(lab).hardware(lab.controller_vm).disks[0].serial == SYSTEM_SERIAL


def down(lab: Lab, say: Say) -> None:
    """Removes all that `up` made, and nothing else. Safe to repeat, also half-way."""
    say("removing the lab")
    stop_hub(lab)
    connection = Connection(lab.uri).get()
    destination = LibvirtDestination(lab.uri, {})
    for vm in (lab.controller_vm, lab.source_vm):
        destination.destroy(vm)
    _remove_pool(connection, lab.name)
    if lab.directory.exists():
        shutil.rmtree(lab.directory)


def _remove_pool(connection: libvirt.virConnect, name: str) -> None:
    try:
        pool = connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
            return
        raise translate(error, f"look up the pool {name}") from error
    with libvirt_errors(f"remove the pool {name}"):
        if pool.isActive():
            pool.destroy()
        pool.undefine()


# ---------------------------------------------------------------- what up consists of


def _require_host(lab: Lab) -> None:
    if os.geteuid() != 0:
        raise Refused("the lab needs root: it mounts disk images", code="not_root", hint="run it as root")
    parent = lab.directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < NEEDS_BYTES and not lab.estate.exists():
        raise Refused(
            f"{parent} has {free >> 20} MiB free, the lab needs {NEEDS_BYTES >> 20} MiB",
            code="no_space",
            hint="free some space, or set REFLOAT_LAB_DIR to a larger filesystem",
        )
    Connection(lab.uri).get()


def _require_unspent(lab: Lab) -> None:
    """A committed failover has used the lab up: its controller is the recovered VM now."""
    if is_spent(lab):
        raise Refused(
            "the lab's VM has been failed over: its controller is the recovered VM now",
            code="lab_failed_over",
            hint="roll the job back (`refloat job list`), or start afresh with `refloat lab down`",
        )


def _create(lab: Lab, say: Say) -> None:
    source, controller = both_images(say)
    for directory, mode in (
        (lab.directory, 0o711),
        (lab.images, 0o711),
        (lab.keys, 0o700),
        (lab.hub_data, 0o700),
    ):
        directory.mkdir(parents=True, exist_ok=True, mode=mode)
        directory.chmod(mode)
    host_key = _make_keys(lab)
    say("making the lab's disks")
    _make_disks(lab, source, controller)
    _define_pool(lab)
    destination = LibvirtDestination(lab.uri, {})
    kind = destination.domain_type()
    destination.create(controller_spec(lab, str(uuid.uuid4()), kind))
    Connection(lab.uri).get().defineXML(source_xml(lab, str(uuid.uuid4()), kind))
    lab.config.write_text(render_config(lab))
    # Last: its presence says that the lab is whole.
    lab.estate.write_text(render_estate(lab, host_key))


def _make_keys(lab: Lab) -> str:
    """Fresh keys for each lab: the hub's and the source's for tests, and the controller's host key."""
    for name in ("controller", "source", "host"):
        run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                f"{lab.name}-{name}",
                "-f",
                str(lab.keys / name),
            ]
        )
    kind, key, *_ = (lab.keys / "host.pub").read_text().split()
    return f"{kind} {key}"


def _make_disks(lab: Lab, source: SourceImages, controller: Path) -> None:
    own = lab.images / "controller.raw"
    run(["cp", "--sparse=always", str(controller), str(own)])
    personalise(
        own,
        {
            "/root/.ssh/authorized_keys": _injected(lab.keys / "controller.pub", 0o600),
            "/etc/ssh/ssh_host_ed25519_key": _injected(lab.keys / "host", 0o600),
            "/etc/ssh/ssh_host_ed25519_key.pub": _injected(lab.keys / "host.pub", 0o644),
        },
    )
    system = lab.images / "source-sda.raw"
    run(["cp", "--sparse=always", str(source.system), str(system)])
    personalise(system, {"/root/.ssh/authorized_keys": _injected(lab.keys / "source.pub", 0o600)})
    # qcow2: only there can QEMU keep the bitmap of changed blocks.
    for raw, name in ((system, "source-sda"), (source.data, "source-sdb")):
        run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(lab.images / f"{name}.qcow2")])
        replica = lab.images / f"replica-{name[-3:]}.raw"
        with replica.open("wb") as file:
            file.truncate(raw.stat().st_size)
    system.unlink()


def _injected(file: Path, mode: int) -> InjectedFile:
    return InjectedFile(file.read_bytes(), mode)


def _define_pool(lab: Lab) -> None:
    xml = f"<pool type='dir'><name>{lab.name}</name><target><path>{lab.images}</path></target></pool>"
    pool = Connection(lab.uri).get().storagePoolDefineXML(xml)
    pool.create()


def _start_vms(lab: Lab, say: Say) -> None:
    destination = _destination(lab)
    for vm in (lab.controller_vm, lab.source_vm):
        if destination.power_state(vm) is PowerState.OFF:
            say(f"starting {vm}")
            destination.start(vm)


def _destination(lab: Lab) -> LibvirtDestination:
    found = Platforms(load_estate(lab.estate), lab.hub_data).destination("lab-recovery")
    assert isinstance(found, LibvirtDestination)
    return found
