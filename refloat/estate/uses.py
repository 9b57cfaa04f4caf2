"""Who relies on what of the estate now: what a change of it has to wait for. Pure but for `uses_of`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refloat.estate.diff import Change, What
from refloat.estate.estate import Estate
from refloat.store.provisions import load_provision
from refloat.store.store import Store, TargetStatus

Key = tuple[str, str]  # a kind of object, and its name


@dataclass(frozen=True)
class Use:
    """`objects` may not change while `who` is as it is; `then` is what to do first. A job's VM has these
    `networks` at its source: None, they are not known, so that every mapping counts."""

    who: str
    then: str
    objects: frozenset[Key]
    networks: frozenset[str] | None = frozenset()


def blocked(changes: Sequence[Change], uses: Sequence[Use], old: Estate) -> list[str]:
    """Why these changes cannot be made now, in words; empty: they can."""
    return [
        f"{change.kind} {change.name} is used by {use.who}: {use.then}"
        for change in changes
        for use in uses
        if _touches(change, use, old)
    ]


def _touches(change: Change, use: Use, old: Estate) -> bool:
    if change.kind == "mapping":  # one that is new changes where the VM's adapter leads, too
        return use.networks is None or change.name in use.networks
    if change.what is What.ADDED or (change.kind, change.name) not in use.objects:
        return False
    return not (change.kind == "site" and _only_new_networks(change, old))


def _only_new_networks(change: Change, old: Estate) -> bool:
    known = old.sites[change.name].networks
    words = [one.field.split(".") for one in change.fields]
    return change.what is What.CHANGED and all(
        len(parts) > 2 and parts[0] == "networks" and parts[1] not in known for parts in words
    )


# ---------------------------------------------------------------- who there is


def uses_of(store: Store, estate: Estate) -> list[Use]:
    """Unfinished jobs, syncs and makings that are under way, and controllers that the hub has made."""
    jobs = [job for job in store.unfinished_jobs() if job.target in estate.targets]
    known = {job.id for job in jobs}
    found = [
        Use(
            f"job {job.id} ({job.state})",
            "commit it, roll it back or abort it first",
            _all_of(estate, job.target),
            _networks(store.target(job.target)),
        )
        for job in jobs
    ]
    for held in store.held_targets(""):
        if held.holder and held.holder not in known and held.name in estate.targets:
            found.append(Use(f"{held.holder} of {held.name}", "wait for its end", _busy(estate, held)))
    return found


def _all_of(estate: Estate, name: str) -> frozenset[Key]:
    target = estate.target(name)
    sites = (("site", target.source_site), ("site", target.site))
    return frozenset((("target", name), ("protected", estate.targets[name].protected), *sites))


def _busy(estate: Estate, held: TargetStatus) -> frozenset[Key]:
    """A sync goes on with the connections that it has: its sites may change."""
    everything = _all_of(estate, held.name)
    if held.holder.startswith("sync-"):
        return frozenset(key for key in everything if key[0] != "site")
    return everything


def _networks(status: TargetStatus) -> frozenset[str] | None:
    return None if status.inventory is None else frozenset(nic.network for nic in status.inventory.nics)


# ---------------------------------------------------------------- what the hub has made


def orphans(store: Store, old: Estate, new: Estate) -> list[str]:
    """Controllers that the hub made, and that the new estate would leave without anybody who deletes them."""
    found = []
    for name in old.targets:
        if _wish(old, name) != _wish(new, name) and (made := load_provision(store, name)) is not None:
            what = "would be another one" if name in new.targets else "would be removed"
            first = f"{made.wanted.vm} was made for it: `refloat target remove {name}` first"
            found.append(f"target {name} {what}, but {first}")
    return found


def _wish(estate: Estate, name: str) -> tuple[str, ...] | None:
    """What the made controller belongs to."""
    if name not in estate.targets or estate.targets[name].provision is None:
        return None
    target = estate.target(name)
    return (target.source_site, target.source_vm, target.site)
