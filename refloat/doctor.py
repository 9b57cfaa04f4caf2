"""`refloat doctor`: whether this hub could fail over what it protects, asked of everything that it needs.

Read-only. Each check stands for itself: one that cannot be made is a finding too, and ends no other.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from refloat.clock import now
from refloat.config import Config
from refloat.errors import NotFound, RefloatError
from refloat.estate import Estate, load_estate
from refloat.estate.live import newest_text, unlike
from refloat.estate.load import parse_estate
from refloat.health import judged
from refloat.model import HealthState, PowerState, Target, TargetState
from refloat.notify.channels import Channel, Webhook
from refloat.notify.courier import in_doubt
from refloat.platforms import Platforms
from refloat.provision import Targets
from refloat.secret import Opened, none_sealed
from refloat.store.outbox import Outbox, Tally
from refloat.store.place import reading
from refloat.store.postgres import Server
from refloat.store.seal import Keys
from refloat.store.sealed import unreadable
from refloat.store.store import Store
from refloat.store.vault import Vault
from refloat.text import size
from refloat.tls import checked, doubts

ROOM = 2 * 2**30  # bytes for store, hashes and screenshots


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    TROUBLE = "trouble"


@dataclass(frozen=True)
class Finding:
    """`subject` is what was looked at; `hint` what to do, empty where all is well."""

    subject: str
    state: State
    found: str
    hint: str = ""


def examine(
    config: Config, platforms_of: Callable[[Estate, Path, Opened], Platforms] = Platforms
) -> Iterator[Finding]:
    """Every finding, as it is made."""
    yield from _hub(config)
    yield from _channels(config)
    try:
        estate, found = _estate(config)
    except RefloatError as error:
        yield Finding("estate", State.TROUBLE, error.message, error.hint)
        return
    yield found
    platforms = platforms_of(estate, config.data_dir, lambda name: _opened(config, name))
    for name in estate.targets:
        target, state = _known(config, estate, name)
        if target is None:
            hint = f"make it with `refloat target add {name}`"
            yield Finding(f"{name}: controller", State.WARNING, "it is still to be made", hint)
            continue
        yield from _target(platforms, target, state)
        if estate.sites[target.site].platform != "simulated":
            yield _key(target)


def _estate(config: Config) -> tuple[Estate, Finding]:
    """The one that the hub works with: its newest version, or the file before there is one."""
    engine = reading(config.data_dir, config.store, config.store_password_file)
    try:
        kept = None if engine is None else newest_text(engine)
    except SQLAlchemyError:  # of an older hub, or none
        kept = None
    finally:
        if engine is not None:
            engine.dispose()
    if kept is None:
        estate = load_estate(config.estate)
        return estate, Finding("estate", State.OK, f"{config.estate}: {len(estate.targets)} targets")
    number, text = kept
    estate = parse_estate(text, f"estate version {number}")
    if said := unlike(config.estate, text, number):
        hint = "say in the file what is meant and apply it, or write it anew: `refloat export > FILE`"
        return estate, Finding("estate", State.WARNING, said, hint)
    return estate, Finding("estate", State.OK, f"version {number}: {len(estate.targets)} targets")


# ---------------------------------------------------------------- the hub's machine


def _hub(config: Config) -> Iterator[Finding]:
    folder = next(one for one in (config.data_dir, *config.data_dir.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    enough = free >= ROOM
    yield Finding(
        "room",
        State.OK if enough else State.TROUBLE,
        f"{size(free)} free for {config.data_dir}",
        "" if enough else f"free some: {size(ROOM)} are wanted for the store, hashes and pictures",
    )
    if config.store:
        yield _asked("store", lambda: _database(config))
    yield _private(config.token_file, "token", "the hub makes its token at its start")
    yield _asked("secrets", lambda: _sealed(config))
    if config.tls_cert:
        yield from _certificate(config)
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK) and _virtualises()
    yield Finding(
        "processor",
        State.OK if kvm else State.WARNING,
        "VMs on this machine run on KVM" if kvm else "this machine has no usable KVM",
        "" if kvm else "only VMs on this machine are slow by it; for other hosts it does not matter",
    )
    if config.drivers is not None:
        there = config.drivers.exists()
        yield Finding(
            "drivers",
            State.OK if there else State.TROUBLE,
            str(config.drivers) if there else f"{config.drivers} does not exist",
            "" if there else "set `drivers` to a virtio-win ISO or folder",
        )


def _channels(config: Config) -> Iterator[Finding]:
    """Of those who are told what happens: their secrets, and whether notices reach them. Nothing is sent."""
    for channel in config.notify:
        yield _asked(f"notify {channel.name}", partial(_channel, config, channel))


def _channel(config: Config, channel: Channel) -> Finding:
    secret = channel.secret if isinstance(channel, Webhook) else channel.password
    if secret and secret.file:  # the hub's environment is not this one
        secret.read()
    doubt, lost = in_doubt(_tally(config, channel.name))
    if doubt:
        hint = f"mend it, then `refloat notify test {channel.name}`"
        return Finding("", State.WARNING if lost else State.TROUBLE, doubt, hint)
    return Finding("", State.OK, f"{channel.kind} to {channel.where}")


def _tally(config: Config, channel: str) -> Tally:
    engine = reading(config.data_dir, config.store, config.store_password_file)
    if engine is None:
        return Tally()
    try:
        return Outbox(engine).tallies().get(channel, Tally())
    except SQLAlchemyError:  # of an older hub, or none: nothing was sent; the store itself is looked at above
        return Tally()
    finally:
        engine.dispose()


def _database(config: Config) -> Finding:
    server = Server(config.store, config.store_password_file)
    server.require_answer()
    if config.store_password_file and stat.S_IMODE(config.store_password_file.stat().st_mode) & 0o077:
        hint = f"chmod 600 {config.store_password_file}"
        return Finding("", State.TROUBLE, f"{config.store_password_file} can be read by others", hint)
    return Finding("", State.OK, f"{server} answers")


def _virtualises() -> bool:
    flags = Path("/proc/cpuinfo").read_text(errors="replace").split()
    return "vmx" in flags or "svm" in flags


def _certificate(config: Config) -> Iterator[Finding]:
    try:
        checked(config)
        found = doubts(config)
    except RefloatError as error:
        yield Finding("certificate", State.TROUBLE, error.message, error.hint)
        return
    for doubt in found:
        yield Finding("certificate", State.TROUBLE if doubt.bad else State.WARNING, doubt.text, doubt.hint)
    if not found:
        yield Finding("certificate", State.OK, f"{config.tls_cert} can be served")


def _sealed(config: Config) -> Finding:
    """Whether what the hub keeps sealed can be opened."""
    keys = Keys(config.seal_key)
    seal, engine = keys.read(), reading(config.data_dir, config.store, config.store_password_file)
    if engine is None:
        return Finding("", State.OK, "nothing is sealed yet")
    try:
        shut = unreadable(engine, seal)
    except SQLAlchemyError:
        return Finding("", State.WARNING, "the store is an older hub's, or none", "start this hub once")
    finally:
        engine.dispose()
    if shut:
        hint = f"put the key back that was in {keys.file}, or set them anew (docs/secrets.md)"
        return Finding("", State.TROUBLE, f"cannot be opened: {', '.join(shut)}", hint)
    return Finding("", State.OK, "everything that is sealed can be opened")


def _opened(config: Config, name: str) -> str:
    """Raises Refused, NotFound."""
    engine = reading(config.data_dir, config.store, config.store_password_file)
    seal = Keys(config.seal_key).read()
    if engine is None or seal is None:
        return none_sealed(name)
    try:
        return Vault(engine, seal).read(name)
    finally:
        engine.dispose()


def _private(file: Path, subject: str, hint: str) -> Finding:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return Finding(subject, State.WARNING, f"{file}: {error.strerror}", hint)
    if stat.S_IMODE(mode) & 0o077:
        return Finding(subject, State.TROUBLE, f"{file} can be read by others", f"chmod 600 {file}")
    return Finding(subject, State.OK, f"{file} is private")


# ---------------------------------------------------------------- a target


# Then the controller VM is the recovered VM, or becomes it: it answers to nobody here.
_PROMOTED = (TargetState.FAILOVER, TargetState.FAILED_OVER)


def _known(config: Config, estate: Estate, name: str) -> tuple[Target | None, TargetState | None]:
    """The target, where it has a controller, and its state, where the hub knows one. The store is read as it
    is: a hub may be using it."""
    wish = estate.target(name) if estate.targets[name].provision is None else None
    engine = reading(config.data_dir, config.store, config.store_password_file)
    if engine is None:
        return wish, None
    try:
        store = Store(engine)
        known = Targets(estate, store)
        made = known.target(name) if known.is_made(name) else None
        return made, store.target(name).state
    except (SQLAlchemyError, NotFound):  # of an older hub, or none: it has made nothing
        return wish, None
    finally:
        engine.dispose()


def _target(platforms: Platforms, target: Target, state: TargetState | None) -> Iterator[Finding]:
    yield _asked(f"{target.name}: source", lambda: _source(platforms, target))
    power = _asked(f"{target.name}: destination", lambda: _destination(platforms, target))
    yield power
    if state in _PROMOTED:
        said = "not asked: a failover has it, it is the recovered VM or becomes it"
        yield Finding(f"{target.name}: controller", State.OK, said)
    elif power.state is State.OK:
        yield _asked(f"{target.name}: controller", lambda: _controller(platforms, target))


def _asked(subject: str, ask: Callable[[], Finding]) -> Finding:
    try:
        found = ask()
    except RefloatError as error:
        return Finding(subject, State.TROUBLE, error.message, error.hint)
    return Finding(subject, found.state, found.found, found.hint)


def _source(platforms: Platforms, target: Target) -> Finding:
    source = platforms.source(target.source_site)
    hardware = source.inventory(target.source_vm)
    state = source.power_state(target.source_vm)
    known = {disk.key for disk in target.disks}
    missing = sorted({disk.key for disk in hardware.disks} - known)
    if missing:
        return Finding(
            "",
            State.WARNING,
            f"{target.source_vm} has disks without a replica: {', '.join(missing)}",
            "add them to the target, or say in the estate that they are left out",
        )
    return Finding("", State.OK, f"{target.source_vm} is {state}, {len(hardware.disks)} disks")


def _destination(platforms: Platforms, target: Target) -> Finding:
    destination = platforms.destination(target.site)
    state = destination.power_state(target.controller_vm)
    if state is not PowerState.RUNNING:
        return Finding(
            "",
            State.WARNING,
            f"{target.controller_vm} is {state}",
            "start it, unless it is a recovered VM: without it there are no syncs",
        )
    return Finding(
        "",
        State.OK,
        f"{target.controller_vm} runs, {size(destination.free_bytes(target.controller_vm))} free",
    )


def _key(target: Target) -> Finding:
    hint = "the estate names the file of the controller's private key"
    finding = _private(Path(target.endpoint.identity), f"{target.name}: key", hint)
    if finding.state is State.WARNING:  # it is not there
        return replace(finding, state=State.TROUBLE)
    return finding


def _controller(platforms: Platforms, target: Target) -> Finding:
    health = platforms.controller(target).health()
    found = judged(health, now(), time.time())
    state = State.OK if found.state is HealthState.OK else State.WARNING
    return Finding("", state, found.text, found.hint)
