"""Steps 1 and 3 to 5: look, bring the replica up to date, close the way in, make the way back."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from refloat import windows
from refloat.clock import now, seconds_between
from refloat.decide import Place, decide, plan_nics, rebuild_refusals
from refloat.errors import Failed, Refused, Unreachable
from refloat.fence import not_fenced, source_limitation
from refloat.guest.linux.cpu import level_of
from refloat.left_behind import not_carried_over
from refloat.model import (
    Action,
    AttachedDisk,
    AttachedNic,
    DriverChoice,
    GuestFacts,
    Hardware,
    Mode,
    Plan,
    PlannedDisk,
    PlannedNic,
    RollbackPoint,
    Secrets,
    SourceVM,
    SyncPoint,
)
from refloat.policy import MacPolicy, Policy, Rebuild
from refloat.report_ways import report_warnings
from refloat.run import Networks, Run
from refloat.seen_network import age_warnings, with_last_seen
from refloat.text import span
from refloat.windows_plan import about_windows, choose_drivers, send_drivers

# What an adaptation and a first boot write into the overlays before the operator decides, at least.
OVERLAY_RESERVE = 512 * 1024 * 1024

# The longest passphrase that cryptsetup takes from a file by default is 8 MiB; nobody types that.
_LONGEST_PASSPHRASE = 64 * 1024


# ---------------------------------------------------------------- 1 preflight


def preflight(run: Run) -> None:
    """Read-only: everything that could be known to fail later is refused here."""
    _require_sync_point(run)
    _require_fence(run)
    require_room(run, OVERLAY_RESERVE)
    run.destination.require_devices(run.policy.disk_bus, run.policy.nic_model)
    source = inventory(run)
    run.save("inventory", source)
    run.once("secrets", Secrets, lambda: Secrets(secrets.token_hex(24), secrets.token_hex(16)))
    facts = inspect(run, source)
    run.save("facts", facts)
    if facts.windows:
        require_room(run, windows.OVERLAY_RESERVE)
    plan = make_plan(run, source, facts, cpu_level(run))
    found = run.destination.check(run.vm, *wanted(run, plan))
    run.save("plan", replace(plan, warnings=(*plan.warnings, *_age(run), *found.warnings)))
    if plan.decision.action is Action.REFUSE:
        raise Refused(
            f"this guest cannot be failed over: {'; '.join(plan.decision.reasons)}",
            code="guest_refused",
            hint="mend the cause at the source, sync, and start again",
        )
    if found.reasons:
        raise Refused(
            f"the destination could not do this: {'; '.join(found.reasons)}",
            code="destination_refuses",
            hint="mend that at the recovery site, and start again",
        )
    send_drivers(run, plan)


def wanted(run: Run, plan: Plan) -> tuple[Hardware, str]:
    """What the controller is to become, and the host name that it is to have."""
    volumes = {disk.serial: disk.volume for disk in run.destination.hardware(run.vm).disks}
    gone = [disk.serial for disk in plan.disks if disk.serial not in volumes]
    if gone:
        raise Refused(
            f"{run.vm} has no replica disk {', '.join(gone)}",
            code="replica_missing",
            hint="attach it at the destination, or mend the target's disks in the estate file",
        )
    disks = tuple(AttachedDisk(one.serial, volumes[one.serial], plan.disk_bus) for one in plan.disks)
    clock_utc = plan.facts.windows is None
    hardware = Hardware(plan.cpus, plan.memory, plan.firmware, disks, wanted_nics(plan), clock_utc)
    return hardware, host_name(plan)


def host_name(plan: Plan) -> str:
    """What the guest calls itself, without a domain."""
    return plan.facts.hostname.partition(".")[0]


def wanted_nics(plan: Plan) -> tuple[AttachedNic, ...]:
    """The plan's adapters, each with its first static IPv4 address for platforms that give out addresses."""
    return tuple(AttachedNic(nic.mac, nic.network, plan.nic_model, _first_address(nic)) for nic in plan.nics)


def _first_address(nic: PlannedNic) -> str:
    addresses = nic.config.addresses if nic.config else ()
    return next((one.partition("/")[0] for one in addresses if ":" not in one), "")


def _age(run: Run) -> list[str]:
    """An emergency has no final sync: what the source wrote since the last one is lost, and that is said."""
    if run.mode is not Mode.EMERGENCY:
        return []
    taken = run.need("sync_point", SyncPoint).taken
    age = span(seconds_between(taken, now()))
    return [f"the replica is {age} old (of {taken}): what the source wrote since then is not in it"]


def inventory(run: Run) -> SourceVM:
    """The protected VM's hardware as its platform states it; in an emergency as it was at the last sync.

    What nothing is seen of now, the guest's network above all, is as it was seen last. Refused for a planned
    failover whose final sync could not be made."""
    known = run.store.target(run.target.name).inventory
    try:
        source = with_last_seen(run.source.inventory(run.target.source_vm), known)
    except Unreachable:
        if run.mode is not Mode.EMERGENCY or known is None:
            raise
        run.progress(message="the source does not answer: its hardware is taken from the last sync")
        return known
    if source.problems and run.mode is Mode.PLANNED:
        raise Refused(
            f"{source.name} cannot be replicated as it is: {'; '.join(source.problems)}",
            code="not_replicable",
            hint="change that at the source; an emergency failover would use the last sync point",
        )
    return source


def inspect(run: Run, source: SourceVM) -> GuestFacts:
    """The guest's facts, read in the controller through a copy-on-write view of the replica."""
    disks, policy = planned_disks(run, source), run.policy
    return run.controller.inspect(disks, policy.disk_bus, policy.nic_model, luks_keys=luks_keys(run))


def luks_keys(run: Run) -> dict[str, str]:
    """The passphrases that the policy names files for, by the UUID of the container. For requests to the
    controller alone: they are never saved, shown or logged. Refused for a file that gives none."""
    return {uuid: _passphrase(uuid, Path(file)) for uuid, file in run.policy.luks_keys.items()}


def _passphrase(uuid: str, file: Path) -> str:
    """The file's text without the newline at its end. No error of ours quotes any of it."""
    try:
        if file.exists() and not file.is_file():  # to open a pipe would wait for its writer
            raise _no_passphrase(uuid, file, "it is not a plain file")
        with file.open("rb") as opened:
            content = opened.read(_LONGEST_PASSPHRASE + 1)
        text = content.decode().removesuffix("\n")
    except OSError as error:
        raise _no_passphrase(uuid, file, error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise _no_passphrase(uuid, file, "it is not UTF-8 text") from None
    if not text or len(content) > _LONGEST_PASSPHRASE:
        raise _no_passphrase(uuid, file, "it is too large" if text else "it is empty")
    return text


def _no_passphrase(uuid: str, file: Path, why: str) -> Refused:
    return Refused(
        f"no passphrase for the LUKS container {uuid} in {file}: {why}",
        code="luks_key_file",
        hint="put the passphrase of one of its key slots into that file, readable for the hub, or mend "
        "`luks_keys` in the policy",
    )


def cpu_level(run: Run) -> int | None:
    """The x86-64 level of the processor that the recovered VM will have; None where it is not known."""
    flags = run.destination.cpu_flags(run.vm)
    # The controller is a 64-bit system and runs on this very processor.
    return None if flags is None else max(1, level_of(flags))


def planned_disks(run: Run, source: SourceVM) -> tuple[PlannedDisk, ...]:
    """The replica disks in the order in which the source's kernel numbers its own: sda, sdb, ..."""
    serials = {disk.key: disk.serial for disk in run.target.disks}
    without = [disk.key for disk in source.disks if disk.key not in serials]
    if without:
        raise Refused(
            f"source disk {', '.join(without)} has no replica",
            code="disk_without_replica",
            hint="add it to the target's disks and sync",
        )
    return tuple(
        PlannedDisk(disk.key, f"sd{chr(ord('a') + index)}", serials[disk.key], disk.capacity)
        for index, disk in enumerate(source.disks)
    )


def make_plan(run: Run, source: SourceVM, facts: GuestFacts, cpu: int | None) -> Plan:
    """`cpu` is the x86-64 level of the destination's processor."""
    policy = run.policy
    nics = planned_nics(run.networks, run.mode, policy, source, facts, partial(_mac, run))
    chosen = choose_drivers(run, facts)
    refusals, warnings = about_windows(run, source, facts, chosen)
    refusals += rebuild_refusals(facts, policy.rebuild)
    decision = decide(facts, source, policy.disk_bus, policy.nic_model, policy.adapt, nics, cpu, refusals)
    adapts = decision.action is Action.ADAPT
    return Plan(
        job=run.job,
        mode=run.mode,
        target=run.target.name,
        decision=decision,
        source=source,
        facts=facts,
        disks=planned_disks(run, source),
        nics=nics,
        cpus=source.cpus,
        memory=source.memory,
        firmware=source.firmware,
        disk_bus=policy.disk_bus,
        nic_model=policy.nic_model,
        report_deadline=policy.windows.report_deadline if facts.windows else policy.report_deadline,
        serial_console=policy.serial_console,
        warnings=(
            *facts.warnings,
            *_cpu_warnings(facts, cpu),
            *warnings,
            *_source_warnings(source),
            *report_warnings(facts, run.destination.has_channel, run.callback),
        ),
        drivers=chosen if adapts and isinstance(chosen, DriverChoice) else None,
        rebuild=policy.rebuild is Rebuild.ALLOWED,
        callback=run.callback,
    )


def _source_warnings(source: SourceVM) -> list[str]:
    """What its platform says of it, what stays behind, and how old what was seen of its network is."""
    return [
        *source.problems,
        *source.warnings,
        *not_carried_over(source),
        *age_warnings(source.nics, now()),
    ]


def _cpu_warnings(facts: GuestFacts, cpu: int | None) -> list[str]:
    """What is not known, or is not refused because the policy says: never adapt."""
    needs = f"{facts.os_name} needs a processor of the level x86-64-v{facts.cpu_level}"
    if facts.cpu_level > 1 and cpu is None:
        return [f"{needs}; whether the destination's has it is not known"]
    return [f"{needs}; the destination's has x86-64-v{cpu}"] if cpu and cpu < facts.cpu_level else []


def planned_nics(
    networks: Networks,
    mode: Mode,
    policy: Policy,
    source: SourceVM,
    facts: GuestFacts,
    mac_of: Callable[[str], str],
) -> tuple[PlannedNic, ...]:
    """`mac_of` gives an adapter's MAC there by the source's. Refused for a network that is mapped to none."""
    places = []
    for nic in source.nics:
        network = networks.of(nic.network, mode)
        if network is None:
            raise Refused(
                f"source network {nic.network!r} is mapped to none for a {mode} failover",
                code="network_unmapped",
                hint="add it to `mappings` in the estate file",
            )
        rules = networks.rules(nic.network, mode)
        places.append(Place(nic, mac_of(nic.mac), network, rules))
    return plan_nics(places, facts.nics, policy, windows=facts.windows is not None)


def _mac(run: Run, source_mac: str) -> str:
    if run.policy.mac is MacPolicy.KEEP:
        return source_mac
    fresh = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    return run.once(f"mac-{source_mac}", str, lambda: fresh)


def _require_sync_point(run: Run) -> None:
    point = run.store.target(run.target.name).sync_point
    if point is None:
        raise Refused(
            f"target {run.target.name} has no complete sync point",
            code="no_sync_point",
            hint=f"run `refloat target sync {run.target.name}` first",
        )
    merged = run.controller.health().merged_point
    if merged != point.id:
        raise Refused(
            f"the controller holds sync point {merged or 'none'}, the hub knows {point.id}",
            code="sync_point_differs",
            hint=f"run `refloat target sync {run.target.name}`: it repairs this",
        )
    run.save("sync_point", point)


def _require_fence(run: Run) -> None:
    reason = source_limitation(run) if run.mode is Mode.EMERGENCY else None
    if reason is not None:
        raise not_fenced(reason, Refused)


def require_room(run: Run, needed: int) -> None:
    free = run.destination.free_bytes(run.vm)
    if free < needed:
        raise Refused(
            f"{free >> 20} MiB are free for the disks of {run.vm}, overlays need {needed >> 20} MiB",
            code="no_space",
            hint="free space on the destination's storage pool",
        )


# ---------------------------------------------------------------- 3 final-sync


def final_sync(run: Run) -> None:
    """Changed blocks of the stopped source. What they mean is looked at in adapt-guest."""
    if run.mode is not Mode.PLANNED:
        return

    def cancelled() -> bool:
        run.kill_point("final-sync")
        return run.abort_requested()

    run.save("sync_point", run.synchronise(cancelled))


# ---------------------------------------------------------------- 4 stop-exports


def stop_exports(run: Run) -> None:
    """From here on nothing writes to the replica until it has a rollback point."""
    merged = run.controller.stop_exports()
    wanted = run.need("sync_point", SyncPoint).id
    if merged != wanted:
        raise Failed(
            f"the replica holds sync point {merged or 'none'} instead of {wanted}",
            code="sync_point_differs",
            hint="the job rolls back; sync the target and start again",
        )


def resume_replication(run: Run) -> None:
    """The controller runs again and answers. It opens exports only when a sync asks for them."""
    run.destination.start(run.vm)
    run.controller.wait_ready()


# ---------------------------------------------------------------- 5 snapshot-disks


def snapshot_disks(run: Run) -> None:
    serials = [disk.serial for disk in run.plan.disks]
    run.destination.snapshot(run.vm, serials, run.tag)
    run.kill_point("snapshot-disks")
    points = run.destination.rollback_points(run.vm, run.tag)
    missing = sorted(set(serials) - {point.serial for point in points})
    if missing:
        raise Failed(
            f"no working rollback point for replica disk {', '.join(missing)}",
            code="no_rollback_point",
            hint="look at the destination's storage pool; nothing was written to the replica",
        )
    run.once("rollback_points", tuple[RollbackPoint, ...], lambda: points)


def revert_disks(run: Run) -> None:
    """Every replica disk has again what it had at step 5, and the platform's word for it is checked."""
    run.destination.stop(run.vm, graceful=0)
    run.destination.revert(run.vm, run.tag)
    run.kill_point("revert-disks")
    touched = [point for point in _recorded_points(run) if not _untouched(run, point)]
    if touched and not run.load("replica_touched", bool):
        run.save("replica_touched", True)
        names = ", ".join(f"{point.serial} ({point.base})" for point in touched)
        raise Failed(
            f"replica disk {names} was written since its rollback point was made",
            code="replica_touched",
            hint="find out by whom; resuming the job gives this replica up: the next sync is a full one",
        )
    if touched:
        give_replica_up(run)


def _recorded_points(run: Run) -> tuple[RollbackPoint, ...]:
    return run.load("rollback_points", tuple[RollbackPoint, ...]) or ()


def _untouched(run: Run, point: RollbackPoint) -> bool:
    """Invariant 6: a base whose stamp moved since step 5 was written behind Refloat's back."""
    return run.destination.stamps(run.vm).get(point.serial) == point.base_stamp


def give_replica_up(run: Run) -> None:
    """The operator resumed after `replica_touched`: no failover from this replica, and no hash of it is
    believed, until a full sync has replaced it."""
    shutil.rmtree(run.data_dir / "targets" / run.target.name / "points", ignore_errors=True)
    run.store.save_sync_point(run.target.name, None)


def hardware_before(run: Run) -> Hardware:
    """The controller's own definition, recorded once before it is changed."""
    return run.once("hardware", Hardware, lambda: run.destination.hardware(run.vm))
