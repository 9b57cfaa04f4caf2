"""Power of a VM at vSphere, and when what vCenter says of it is no proof."""

from __future__ import annotations

import pytest

from refloat.errors import Failed, Refused, Unreachable
from refloat.model import PowerState
from tests.vcsim.rig import VcSim


def test_an_orderly_shutdown(vcsim: VcSim) -> None:
    source = vcsim.source()
    assert source.shut_down(vcsim.vm, 10) is True
    assert source.power_state(vcsim.vm) is PowerState.OFF
    assert vcsim.calls().count("ShutdownGuest") == 1


def test_a_shutdown_without_tools_fails_at_once(vcsim: VcSim) -> None:
    vcsim.set(Tools="guestToolsNotRunning")
    source = vcsim.source()
    assert source.shut_down(vcsim.vm, 3600) is False
    assert source.power_state(vcsim.vm) is PowerState.RUNNING


def test_a_vm_that_went_off_by_itself_meanwhile(vcsim: VcSim) -> None:
    vcsim.fault("ShutdownGuest", Fault="InvalidPowerState", After=True)
    assert vcsim.source().shut_down(vcsim.vm, 10) is True


def test_a_suspended_vm_is_not_off(vcsim: VcSim) -> None:
    vcsim.set(Power="suspended")
    assert vcsim.source().power_state(vcsim.vm) is PowerState.PAUSED


@pytest.mark.parametrize("power", ["poweredOff", "poweredOn"])
@pytest.mark.parametrize(
    "stale",
    [
        {"Connection": "disconnected"},
        {"Connection": "inaccessible"},
        {"Connection": "orphaned"},
        {"HostConnection": "notResponding"},
        {"HostConnection": "disconnected"},
    ],
)
def test_a_stale_power_state_is_no_proof(vcsim: VcSim, power: str, stale: dict[str, str]) -> None:
    """What the fence relies on: vCenter goes on to show the last state that it knew."""
    vcsim.set(Power=power, **stale)
    try:
        with pytest.raises(Unreachable) as caught:
            vcsim.source().power_state(vcsim.vm)
        assert caught.value.code == "stale_state" and caught.value.hint
        if "Connection" in stale:
            with pytest.raises(Unreachable):
                vcsim.source().inventory(vcsim.vm)
    finally:
        vcsim.set(Connection="connected", HostConnection="connected")


def test_a_power_order_that_another_was_faster_with(vcsim: VcSim) -> None:
    vcsim.fault("PowerOffVM_Task", Fault="InvalidPowerState", After=True)
    source = vcsim.source()
    source.power_off(vcsim.vm)
    assert source.power_state(vcsim.vm) is PowerState.OFF
    vcsim.fault("PowerOnVM_Task", Drop=True, After=True)  # the answer is lost
    source.power_on(vcsim.vm)
    assert source.power_state(vcsim.vm) is PowerState.RUNNING


def test_a_power_task_that_fails_says_why(vcsim: VcSim) -> None:
    vcsim.fault("PowerOffVM_Task", Fault="ConcurrentAccess", Task=True)
    with pytest.raises(Refused) as caught:
        vcsim.source().power_off(vcsim.vm)
    assert caught.value.code == "vsphere_busy"
    vcsim.fault("PowerOffVM_Task", Fault="InsufficientResourcesFault", Task=True)
    with pytest.raises(Failed) as failed:
        vcsim.source().power_off(vcsim.vm)
    assert (
        failed.value.code == "vsphere_InsufficientResourcesFault" and "power off VM" in failed.value.message
    )
