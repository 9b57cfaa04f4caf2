"""The compute offering of a VM that is off. To be changed while a root disk is attached: without one
CloudStack takes the wrong scope for the new offering."""

from __future__ import annotations

from refloat.destinations.cloudstack_look import Look, Vm
from refloat.destinations.cloudstack_orders import Orders
from refloat.destinations.cloudstack_plan import Compute, choose, details_of
from refloat.errors import Refused


def set_compute(orders: Orders, look: Look, vm: Vm, cpus: int, memory: int, note: str) -> None:
    """`memory` in MiB. What the controller had is noted, and taken again when its size is wanted again."""
    if (vm.cpus, vm.memory) == (cpus, memory) and _is_stable(look, vm):
        return
    home = orders.journal.notes.get(note)
    if home is None:
        home = {
            "offering": vm.offering,
            "cpus": vm.cpus,
            "memory": vm.memory,
            "speed": vm.item.get("cpuspeed") or 0,
        }
        orders.journal.note(note, home)
    back = (home["cpus"], home["memory"]) == (cpus, memory)
    wanted = _again(look, home) if back else wanted_compute(look, vm, cpus, memory)
    if not _has(vm, wanted):
        params = {"details": [wanted.details]} if wanted.details else {}
        orders.give(
            "changeServiceForVirtualMachine",
            lambda: _has(look.vm(vm.id), wanted),
            f"VM {vm.name}",
            id=vm.id,
            serviceofferingid=wanted.offering,
            **params,
        )
    if back:
        orders.journal.note(note, None)


def wanted_compute(look: Look, vm: Vm, cpus: int, memory: int) -> Compute:
    """Raises Refused where no offering can be taken at all; one that is too small is a shortfall."""
    settings = look.api.settings
    own = look.offering(vm.offering)
    offerings = {one.id: one for one in [*look.offerings(vm.id), *([own] if own else [])]}
    if own is not None:
        offerings = {key: one for key, one in offerings.items() if one.local == own.local}
    made = choose(list(offerings.values()), settings.offering, cpus, memory, settings.cpu_speed)
    if made is None:
        which = f"an offering {settings.offering}" if settings.offering else "a fixed offering"
        raise Refused(
            f"VM {vm.name} can take no offering of {cpus} CPUs and {memory} MiB: there is not {which} for it",
            code="no_offering",
            hint="name a custom, not volatile offering in the site's `offering`, on storage of the same kind",
        )
    return made


def _again(look: Look, home: dict[str, object]) -> Compute:
    """What the controller had. Details go with a custom offering only."""
    cpus, memory = int(str(home["cpus"])), int(str(home["memory"]))
    offering = look.offering(str(home["offering"]))
    speed = int(str(home["speed"])) or look.api.settings.cpu_speed
    details = details_of(offering, cpus, memory, speed) if offering else {}
    return Compute(str(home["offering"]), cpus, memory, details)


def _has(vm: Vm, wanted: Compute) -> bool:
    return (vm.offering, vm.cpus, vm.memory) == (wanted.offering, wanted.cpus, wanted.memory)


def _is_stable(look: Look, vm: Vm) -> bool:
    own = look.offering(vm.offering)
    return own is None or not own.volatile
