"""The adapters of a VM that is off. See next_nic in cloudstack_plan.py for the order in which they come and
go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refloat.destinations.cloudstack_api import Api, Item
from refloat.destinations.cloudstack_look import Look, Vm
from refloat.destinations.cloudstack_orders import Orders
from refloat.destinations.cloudstack_plan import (
    Add,
    MakeDefault,
    Nic,
    NoWay,
    Remove,
    WantedNic,
    is_uuid,
    next_nic,
)
from refloat.errors import Failed, Refused
from refloat.model import AttachedNic


def set_nics(
    orders: Orders, look: Look, vm: Vm, nics: Sequence[AttachedNic], networks: Mapping[str, str]
) -> None:
    """One order at a time, each chosen from what is there: a hub that was killed goes on where it was."""
    if not nics:
        raise Refused(f"VM {vm.name} cannot be without an adapter on CloudStack", code="no_adapters")
    wanted = wanted_nics(look.api, nics, networks)
    for _ in range(8 * (len(wanted) + len(vm.nics)) + 8):
        here = look.vm(vm.id).nics
        try:
            move = next_nic(here, wanted, tuple(networks.values()))
        except NoWay as error:
            raise Refused(
                f"the adapters of VM {vm.name} cannot be made: {error}",
                code="no_way",
                hint="add another network to the site in the estate file",
            ) from error
        match move:
            case None:
                return
            case Add(nic):
                _add(orders, look, vm, nic)
            case MakeDefault(nic):
                _make_default(orders, look, vm, nic)
            case Remove(nic):
                _remove(orders, look, vm, nic)
    raise Failed(
        f"the adapters of VM {vm.name} do not come to rest",
        code="not_as_ordered",
        hint="look at this VM in CloudStack: somebody or something else changes it, or it gives "
        "other addresses",
    )


def wanted_nics(api: Api, nics: Sequence[AttachedNic], networks: Mapping[str, str]) -> list[WantedNic]:
    """With CloudStack's ids. An address is asked for only where the network gives any. Raises Refused."""
    found = []
    for nic in nics:
        item = network_of(api, networks.get(nic.network, nic.network))
        address = nic.address if item.get("type") != "L2" else ""
        found.append(WantedNic(str(item["id"]), nic.mac.lower(), address))
    if len({nic.network for nic in found}) < len(found):
        raise Refused(
            "two adapters would be in one network, and CloudStack gives a VM one in each",
            code="network_twice",
            hint="map the source's networks to different ones",
        )
    return found


def network_of(api: Api, network: str) -> Item:
    if is_uuid(network):
        try:
            found = api.items("listNetworks", "network", id=network)
        except Refused as error:
            if error.code != "cloudstack_rule":
                raise
            found = []
        if found:
            return found[0]
    raise Refused(
        f"CloudStack has no network {network}",
        code="no_such_network",
        hint="give the network's id in the site's `networks`",
    )


def cidr_of(network: Item) -> str:
    """Of all its addresses, also where a part is reserved; "" of a network that gives none."""
    return str(network.get("networkcidr") or network.get("cidr") or "")


def _add(orders: Orders, look: Look, vm: Vm, nic: WantedNic) -> None:
    asked = {"macaddress": nic.mac, "ipaddress": nic.address}

    def added() -> bool:
        return any(nic.is_in(one) for one in look.vm(vm.id).nics)

    orders.give(
        "addNicToVirtualMachine",
        added,
        f"VM {vm.name}, network {nic.network}",
        virtualmachineid=vm.id,
        networkid=nic.network,
        **{name: value for name, value in asked.items() if value},
    )


def _make_default(orders: Orders, look: Look, vm: Vm, nic: Nic) -> None:
    orders.give(
        "updateDefaultNicForVirtualMachine",
        lambda: any(one.id == nic.id and one.default for one in look.vm(vm.id).nics),
        f"VM {vm.name}, {nic.mac}",
        virtualmachineid=vm.id,
        nicid=nic.id,
    )


def _remove(orders: Orders, look: Look, vm: Vm, nic: Nic) -> None:
    orders.give(
        "removeNicFromVirtualMachine",
        lambda: nic.id not in {one.id for one in look.vm(vm.id).nics},
        f"VM {vm.name}, {nic.mac}",
        virtualmachineid=vm.id,
        nicid=nic.id,
    )
