"""What is ordered from CloudStack: pure decisions, carried out here on the smallest model of its rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.destinations.cloudstack_plan import (
    Add,
    Attach,
    Compute,
    Detach,
    MakeDefault,
    Nic,
    NoWay,
    Offering,
    Remove,
    WantedNic,
    buses_of,
    choose,
    device_ids,
    next_disk,
    next_nic,
    serial_of,
    snapshot_name,
    tag_of,
    with_buses,
    with_firmware,
)
from refloat.model import DiskBus, Firmware

# ---------------------------------------------------------------- disks


def test_the_replica_root_leaves_first_and_comes_back_as_device_0() -> None:
    attached = {"own": 0, "r0": 1, "r1": 2}
    target = device_ids(["r0", "r1"], attached, None)
    orders = []
    while (order := next_disk(attached, target)) is not None:
        orders.append(order)
        if isinstance(order, Detach):
            del attached[order.volume]
        else:
            attached[order.volume] = order.device
    assert orders == [Detach("r0"), Detach("own"), Attach("r0", 0)]
    assert attached == {"r0": 0, "r1": 2}


def test_every_disk_goes_back_to_where_it_was() -> None:
    home = {"own": 0, "r0": 2, "r1": 5}
    assert device_ids(["own", "r0", "r1"], {"r0": 0, "r1": 5}, home) == home
    assert device_ids(["r1", "r0"], home, home) == {"r1": 0, "r0": 2}


def test_device_3_is_never_used() -> None:
    names = [f"r{number}" for number in range(7)]
    target = device_ids(names, {name: 9 - index for index, name in enumerate(names)}, None)
    assert list(target.values()) == [0, 1, 2, 4, 5, 6, 7]


VOLUMES = ["own", "r0", "r1", "r2", "r3"]


@given(
    st.permutations(VOLUMES),
    st.permutations([1, 2, 4, 5, 7]),
    st.permutations(VOLUMES).flatmap(lambda names: st.integers(1, 5).map(lambda count: names[:count])),
    st.integers(0, 12),
)
def test_any_order_is_reached_from_anywhere_also_by_a_hub_that_begins_again(
    names: list[str], devices: list[int], wanted: list[str], lost_after: int
) -> None:
    attached = dict(zip(names, [0, *devices[:4]], strict=True))
    target = device_ids(wanted, attached, None)
    for number in range(30):
        if number == lost_after:
            target = device_ids(wanted, attached, None)  # decided anew from what is there
        order = next_disk(attached, target)
        if order is None:
            break
        if isinstance(order, Detach):
            del attached[order.volume]
        else:
            assert order.device not in attached.values() and order.device != 3
            attached[order.volume] = order.device
    assert sorted(attached, key=lambda volume: attached[volume]) == wanted
    assert attached[wanted[0]] == 0


def test_a_serial_is_the_beginning_of_the_volumes_id() -> None:
    assert serial_of("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9") == "0a1b2c3d4e5f60718293"


@given(st.sampled_from([DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA]), st.data())
def test_the_details_give_the_buses_and_nothing_else_changes(root: DiskBus, data: st.DataObject) -> None:
    others = data.draw(st.sampled_from([DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA]))
    before = {
        "cpuOvercommitRatio": "2.0",
        "rootDiskController": data.draw(st.sampled_from(["scsi", "virtio"])),
    }
    after = with_buses(before, [root, others, others])
    assert buses_of(after) == (root, others)
    assert after["cpuOvercommitRatio"] == "2.0"
    assert with_buses(after, [root, others]) == after


def test_a_virtio_vm_gets_no_detail_that_only_an_administrator_may_write() -> None:
    assert with_buses({"a": "b"}, [DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_BLK]) == {"a": "b"}


def test_firmware_is_one_detail() -> None:
    assert with_firmware({"a": "b"}, Firmware.UEFI) == {"a": "b", "UEFI": "LEGACY"}
    assert with_firmware({"a": "b", "UEFI": "SECURE"}, Firmware.UEFI) == {"a": "b", "UEFI": "SECURE"}
    assert with_firmware({"a": "b", "UEFI": "SECURE"}, Firmware.BIOS) == {"a": "b"}


# ---------------------------------------------------------------- adapters


def settle(here: list[Nic], wanted: list[WantedNic], spare: tuple[str, ...] = ()) -> list[Nic]:
    """Carries the orders out, and breaks where CloudStack would refuse one."""
    for _ in range(40):
        order = next_nic(sorted(here, key=lambda nic: (not nic.default, nic.device)), wanted, spare)
        match order:
            case None:
                return sorted(here, key=lambda nic: (not nic.default, nic.device))
            case Add(nic):
                assert nic.network not in {one.network for one in here}, "one adapter in a network"
                device = max((one.device for one in here), default=-1) + 1
                made = Nic(
                    f"n{device}{nic.mac}", nic.network, nic.mac or "02:ff", nic.address, not here, device
                )
                here = [*here, made]
            case MakeDefault(nic):
                old = next(one for one in here if one.default)
                swap = {nic.id: (True, old.device), old.id: (False, nic.device)}
                here = [
                    Nic(
                        one.id,
                        one.network,
                        one.mac,
                        one.address,
                        *swap.get(one.id, (one.default, one.device)),
                    )
                    for one in here
                ]
            case Remove(nic):
                assert not nic.default, "the default adapter cannot be removed"
                here = [one for one in here if one.id != nic.id]
    raise AssertionError("it does not come to rest")


MANAGEMENT = Nic("m", "net-m", "02:01", "10.0.0.5", True, 0)


def test_production_adapters_come_before_the_management_one_goes() -> None:
    wanted = [WantedNic("net-a", "02:0a", "10.1.0.4"), WantedNic("net-b", "02:0b")]
    promoted = settle([MANAGEMENT], wanted)
    assert [nic.mac for nic in promoted] == ["02:0a", "02:0b"] and promoted[0].default
    back = settle(promoted, [WantedNic("net-m", "02:01", "10.0.0.5")])
    assert [(nic.mac, nic.address) for nic in back] == [("02:01", "10.0.0.5")]


def test_another_mac_in_the_same_network_goes_by_way_of_another_network() -> None:
    wanted = [WantedNic("net-m", "02:02")]
    with pytest.raises(NoWay):
        settle([MANAGEMENT], wanted, spare=("net-m",))
    assert [nic.mac for nic in settle([MANAGEMENT], wanted, spare=("net-m", "net-x"))] == ["02:02"]


@given(
    st.permutations(["a", "b", "c", "d"]).flatmap(lambda n: st.integers(1, 4).map(lambda c: n[:c])),
    st.permutations(["a", "b", "c", "d"]).flatmap(lambda n: st.integers(1, 4).map(lambda c: n[:c])),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_any_adapters_become_any_others(now: list[str], then: list[str], same: list[bool]) -> None:
    here = [Nic(f"i{index}", net, f"02:{net}", "", index == 0, index) for index, net in enumerate(now)]
    wanted = [
        WantedNic(net, f"02:{net}" if keep else f"03:{net}") for net, keep in zip(then, same, strict=False)
    ]
    found = settle(here, wanted, spare=("z",))
    assert [(nic.network, nic.mac) for nic in found] == [(nic.network, nic.mac) for nic in wanted]


# ---------------------------------------------------------------- compute

SMALL = Offering("s", "small", 1, 1024, 1000, False, False)
LARGE = Offering("l", "large", 4, 8192, 1000, False, False)
VOLATILE = Offering("v", "volatile", 2, 2048, 1000, False, True)
CUSTOM = Offering("c", "custom", 0, 0, 0, True, False)
BOUND = Offering("b", "bound", 0, 0, 2000, True, False, 2, 4, 2048, 4096)


def test_the_smallest_fixed_offering_that_fits() -> None:
    known = [LARGE, CUSTOM, VOLATILE, SMALL]
    assert choose(known, "", 1, 512, 1000) == Compute("s", 1, 1024, {})
    assert choose(known, "", 2, 2048, 1000) == Compute("l", 4, 8192, {})
    assert choose([CUSTOM], "", 2, 2048, 1000) is None


def test_the_nearest_one_and_the_shortfall_is_said() -> None:
    made = choose([SMALL, LARGE], "", 8, 16384, 1000)
    assert made and made.offering == "l"
    assert "4 CPUs and 8192 MiB instead of 8 and 16384 MiB" in made.shortfall(8, 16384)
    assert not made.shortfall(4, 8192)


def test_a_custom_offering_by_name_gets_its_details() -> None:
    made = choose([SMALL, CUSTOM], "custom", 3, 3000, 1500)
    assert made == Compute("c", 3, 3000, {"cpuNumber": "3", "memory": "3000", "cpuSpeed": "1500"})
    bound = choose([BOUND], "bound", 8, 1024, 1500)
    assert bound == Compute("b", 4, 2048, {"cpuNumber": "4", "memory": "2048"}), "its speed is fixed"
    assert choose([VOLATILE], "volatile", 1, 512, 1000) is None, "a restart would destroy the replica"


# ---------------------------------------------------------------- snapshots


def test_a_snapshots_name_says_whose_it_is() -> None:
    assert tag_of(snapshot_name("refloat-job1", "0a1b")) == "refloat-job1"
    for other in ("daily", "a.refloat", "a.b.c.refloat", "job1.0a1b"):
        assert tag_of(other) is None
