"""The table: each row makes a guest or a platform wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from refloat.model import PowerState, Word
from refloat.simulated.guest import PROGRAM_AT, RECORD, Behaviour
from refloat.simulated.world import OWN, Protected, World

Meddle = Callable[[World, Protected], None]

F, P = Word.FAILED, Word.PARTIAL
SILENT = "no report from inside the guest"
NO_ADAPTER = "no adapter has the planned MAC"
HALF = "never said that its boot ended"


@dataclass(frozen=True)
class Sabotage:
    """`guest` is how the guest behaves, `at_start` what happens to the recovered VM just before it runs,
    `later` when somebody listens to it. The verdict must be `word` and name the `cause`."""

    name: str
    cause: str
    word: Word = F
    guest: Behaviour = Behaviour()  # noqa: RUF009 (frozen)
    at_start: Meddle | None = None
    later: Meddle | None = None


def says(**fields: Any) -> Behaviour:
    return Behaviour(says=fields)


def nic(one: Protected, **fields: Any) -> dict[str, Any]:
    return {"mac": one.mac, "name": "eth0", "up": True, "addresses": [one.address], **fields}


# ---------------------------------------------------------------- what a platform or a disk can do


def no_program(world: World, one: Protected) -> None:
    world.destination.guest_writes(one.controller, one.serial("sda"), PROGRAM_AT, bytes(RECORD))


def half_a_program(world: World, one: Protected) -> None:
    world.destination.guest_writes(one.controller, one.serial("sda"), PROGRAM_AT + 100, bytes(RECORD - 100))


def other_disks(of: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Meddle:
    def act(world: World, one: Protected) -> None:
        hardware = world.destination.state(one.controller).hardware
        world.destination.meddle(one.controller, hardware=replace(hardware, disks=of(hardware.disks)))

    return act


def own_disk_first(world: World, one: Protected) -> None:
    hardware = world.destination.state(one.controller).hardware
    volume = str(world.destination.volumes.directory / f"{one.controller}.raw")
    own = replace(hardware.disks[0], serial=OWN, volume=volume)
    world.destination.meddle(one.controller, hardware=replace(hardware, disks=(own, *hardware.disks)))


def another_mac(world: World, one: Protected) -> None:
    hardware = world.destination.state(one.controller).hardware
    nics = tuple(replace(nic, mac="52:54:00:99:99:99") for nic in hardware.nics)
    world.destination.meddle(one.controller, hardware=replace(hardware, nics=nics))


def no_adapter(world: World, one: Protected) -> None:
    hardware = world.destination.state(one.controller).hardware
    world.destination.meddle(one.controller, hardware=replace(hardware, nics=()))


def no_link(world: World, one: Protected) -> None:
    world.destination.meddle(one.controller, linked=False)


def paused(world: World, one: Protected) -> None:
    world.destination.meddle(one.controller, power=PowerState.PAUSED, reason="I/O error")


def source_runs(world: World, one: Protected) -> None:
    world.source.power_on(one.name)


# ---------------------------------------------------------------- the table

ROWS = (
    # The guest does not come up, or not as far as a report.
    Sabotage("virtio-module-missing", SILENT, guest=Behaviour(stages=())),
    Sabotage("first-boot-unit-masked", SILENT, guest=Behaviour(stages=(), delay=1)),
    Sabotage("adaptation-lost", SILENT, at_start=no_program),
    Sabotage("initrd-truncated", SILENT, at_start=half_a_program),
    Sabotage("disks-swapped", SILENT, at_start=other_disks(lambda disks: disks[::-1])),
    Sabotage("controller-disk-boots", SILENT, at_start=own_disk_first),
    Sabotage("report-late", SILENT, guest=Behaviour(delay=3600)),
    Sabotage("kernel-panic", "is off (kernel panic)", guest=Behaviour(ends="kernel panic")),
    Sabotage("panic-after-a-while", "is off (watchdog)", guest=Behaviour(delay=1, ends="watchdog")),
    Sabotage("paused-by-its-host", "is paused (I/O error)", later=paused),
    # It comes up half.
    Sabotage("script-killed-half-way", HALF, P, Behaviour(stages=("configured",))),
    Sabotage("emergency-shell", "maintenance", guest=says(system_state="maintenance")),
    Sabotage("clean-up-failed", "could not be removed", P, says(cleaned=False)),
    Sabotage("problems-reported", "cannot write resolv.conf", P, says(problems=["cannot write resolv.conf"])),
    Sabotage("no-virtio-driver", "drivers in use: none", P, says(drivers=[])),
    Sabotage(
        "data-disk-not-mounted",
        "/srv/sdb is not mounted",
        guest=says(mounts=[{"mountpoint": "/srv/sdb", "mounted": False}]),
    ),
    Sabotage(
        "disk-left-out",
        "/srv/sdb is not mounted",
        at_start=other_disks(lambda disks: disks[:1]),
    ),
    Sabotage("clock-behind", "behind", P, says(clock=0)),
    Sabotage("clock-ahead", "ahead", P, says(clock=2**40)),
    # The network.
    Sabotage("another-mac", NO_ADAPTER, at_start=another_mac),
    Sabotage("adapter-left-out", NO_ADAPTER, at_start=no_adapter),
    Sabotage("no-link", "link", at_start=no_link),
    Sabotage("adapter-not-reported", NO_ADAPTER, guest=says(nics=[])),
    Sabotage("gateway-unreachable", "does not answer", guest=says(gateway_answers=False)),
    Sabotage("no-gateway", "gateway", guest=says(gateway="", gateway_answers=False)),
    Sabotage("no-name-servers", "name servers in use: none", guest=says(dns=[])),
    # What comes over the channel is no report of this boot of this guest.
    Sabotage("nonce-of-another-boot", "wrong nonce", guest=says(nonce="another")),
    Sabotage("token-forged", "wrong token", guest=says(token="0" * 48)),
    Sabotage("token-no-text", "wrong token", guest=says(token=["a"])),
    Sabotage("report-of-another-job", "from another job", guest=says(job="vm1-000000")),
    Sabotage("not-json", "not JSON", guest=Behaviour(raw="all is well")),
    Sabotage("json-but-no-object", SILENT, guest=Behaviour(raw='["succeeded"]')),
    Sabotage("nested-without-end", SILENT, guest=Behaviour(raw="[" * 60000)),
    Sabotage("ten-megabytes", SILENT, guest=Behaviour(raw="x" * 10_000_000)),
    Sabotage("version-of-the-future", "not a report of version 1", guest=says(v=2)),
    Sabotage("unknown-stage", "unknown stage", guest=says(stage="succeeded")),
    Sabotage("uptime-negative", SILENT, guest=says(uptime=-1)),
    Sabotage("uptime-no-number", SILENT, guest=says(uptime=True)),
    Sabotage("sequence-too-large", "seq is no whole number", guest=says(seq=2**60)),
    Sabotage("nics-no-list", SILENT, guest=says(nics={"mac": "x"})),
    Sabotage("mounts-without-end", SILENT, guest=says(mounts=[{}] * 1000)),
    Sabotage("texts-without-end", SILENT, guest=says(gateway="x" * 1000)),
    Sabotage("sequence-repeated", HALF, P, says(seq=1)),
    Sabotage("reboot-loop", "boot", guest=Behaviour(each=({"boot_id": "a"}, {"boot_id": "b"}))),
    # The other side.
    Sabotage("source-still-runs", "is running", later=source_runs),
)

# Of one protected VM: what its own reports would have to say.
OWN_ROWS: tuple[Callable[[Protected], Sabotage], ...] = (
    lambda one: Sabotage("address-absent", "lacks", guest=says(nics=[nic(one, addresses=[])])),
    lambda one: Sabotage("another-address", "lacks", guest=says(nics=[nic(one, addresses=["10.20.9.9/16"])])),
    lambda one: Sabotage("another-prefix", "lacks", guest=says(nics=[nic(one, addresses=["10.20.0.1/8"])])),
    lambda one: Sabotage("adapter-down", "is down", guest=says(nics=[nic(one, up=False)])),
)
