"""The login: trust, credentials, sessions that expire, a vCenter that is slow or silent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from refloat.errors import Failed, NotFound, RefloatError, Refused, Unreachable
from refloat.model import PowerState
from refloat.secret import SecretRef
from tests.vcsim.rig import PASSWORD, Certificate, VcSim


def code_of(vcsim: VcSim, **changes: object) -> str:
    with pytest.raises(RefloatError) as caught:
        vcsim.source(**changes).power_state(vcsim.vm)
    assert caught.value.hint
    return caught.value.code


# ---------------------------------------------------------------- trust


def test_a_pinned_thumbprint_or_an_authority(vcsim: VcSim) -> None:
    for trust in (
        {"thumbprint": vcsim.certificate.sha256},
        {"thumbprint": vcsim.certificate.sha1},
        {"thumbprint": "", "ca_file": str(vcsim.certificate.file)},
    ):
        assert vcsim.source(**trust).power_state(vcsim.vm) is PowerState.RUNNING


@pytest.mark.parametrize("trust", [{"thumbprint": "00" * 32}, {"thumbprint": "00" * 20}, {"thumbprint": ""}])
def test_nothing_is_sent_to_a_server_that_is_not_trusted(vcsim: VcSim, trust: dict[str, str]) -> None:
    """Without a pin and an authority the system's authorities count: this certificate is of none of them.
    127.0.0.1 is no exception, as it is to pyVmomi."""
    with pytest.raises(Unreachable) as caught:
        vcsim.source(**trust).power_state(vcsim.vm)
    assert caught.value.code == "vsphere_certificate" and caught.value.hint
    if trust["thumbprint"]:
        assert (
            vcsim.certificate.sha256 in caught.value.message or vcsim.certificate.sha1 in caught.value.message
        )
    assert vcsim.calls() == []


@pytest.fixture
def other_certificate(vcsim: VcSim) -> Iterator[Certificate]:
    made = Certificate(vcsim.directory, "second")
    vcsim.order("certificate", f"{made.file} {made.key}")
    try:
        yield made
    finally:
        vcsim.order("certificate", f"{vcsim.certificate.file} {vcsim.certificate.key}")


def test_each_new_connection_is_checked(vcsim: VcSim, request: pytest.FixtureRequest) -> None:
    """pyVmomi by itself checks a thumbprint at the first connection only."""
    source = vcsim.source()
    assert source.power_state(vcsim.vm) is PowerState.RUNNING
    vcsim.calls()
    request.getfixturevalue("other_certificate")
    vcsim.order("cut", None)
    with pytest.raises(Unreachable) as caught:
        source.power_state(vcsim.vm)
    assert caught.value.code == "vsphere_certificate"
    assert vcsim.calls() == []


# ---------------------------------------------------------------- credentials


def test_wrong_credentials(vcsim: VcSim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the VM then: an operator's word may stand for it in an emergency."""
    monkeypatch.setenv("REFLOAT_TEST_PASSWORD", "wrong-word")
    with pytest.raises(Unreachable) as caught:
        vcsim.source(password=SecretRef(env="REFLOAT_TEST_PASSWORD")).power_state(vcsim.vm)
    assert caught.value.code == "vsphere_login"
    assert "wrong-word" not in str(caught.value) and "REFLOAT_TEST_PASSWORD" in str(caught.value)
    assert vcsim.calls().count("Login") == 1  # accounts are locked by repetition


def test_a_missing_secret(vcsim: VcSim) -> None:
    assert code_of(vcsim, password=SecretRef(file="/nonexistent/password")) == "secret"
    assert code_of(vcsim, password=SecretRef(env="REFLOAT_NOT_SET")) == "secret"
    assert code_of(vcsim, password=SecretRef(file="/dev/zero")) == "secret"


def test_the_password_is_said_nowhere(vcsim: VcSim, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = vcsim.source()
    source.inventory(vcsim.vm)
    with source.read_changes(vcsim.vm, None, "refloat-1"):
        pass
    assert PASSWORD not in caplog.text and PASSWORD not in repr(vcsim.settings())
    for one in vcsim.readers():
        assert PASSWORD not in " ".join(one["argv"])


def test_a_missing_privilege_is_named(vcsim: VcSim) -> None:
    privilege = "<privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId>"
    inner = f'<object type="VirtualMachine">vm-1</object>{privilege}'
    vcsim.fault("CreateSnapshot_Task", Fault="NoPermission", Inner=inner)
    with pytest.raises(Refused) as caught, vcsim.source().read_changes(vcsim.vm, None, "refloat-1"):
        pass
    assert caught.value.code == "vsphere_permission"
    assert "VirtualMachine.State.CreateSnapshot" in caught.value.message


# ---------------------------------------------------------------- sessions


def test_an_expired_session_is_opened_again(vcsim: VcSim) -> None:
    source = vcsim.source()
    source.power_state(vcsim.vm)
    vcsim.order("expire", None)
    vcsim.calls()
    assert source.power_state(vcsim.vm) is PowerState.RUNNING
    assert vcsim.calls().count("Login") == 1


def test_it_may_expire_in_the_middle_of_a_sync(vcsim: VcSim) -> None:
    source = vcsim.source()
    with source.read_changes(vcsim.vm, None, "refloat-1"):
        vcsim.order("expire", None)
    assert "RemoveSnapshot_Task" in vcsim.calls()
    with source.read_changes(vcsim.vm, None, "refloat-2") as changes:
        assert changes.disks
    assert leftovers(vcsim) == []


def leftovers(vcsim: VcSim) -> list[str]:
    from refloat.sources.vsphere_changes import snapshots

    source = vcsim.source()
    return [one.name for one in snapshots(source._session, source._find(vcsim.vm))]


def test_sessions_that_end_at_once_are_no_endless_loop(vcsim: VcSim) -> None:
    vcsim.fault("FindByInventoryPath", Fault="NotAuthenticated", Count=2)
    with pytest.raises(Unreachable) as caught:
        vcsim.source().power_state(vcsim.path)
    assert caught.value.code == "vsphere_login"


def test_many_threads_share_one_login(vcsim: VcSim) -> None:
    source = vcsim.source()
    start = threading.Barrier(8)

    def ask(_: int) -> PowerState:
        start.wait(10)
        return source.power_state(vcsim.vm)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {PowerState.RUNNING}
    assert vcsim.calls().count("Login") == 1
    vcsim.order("expire", None)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {PowerState.RUNNING}
    assert vcsim.calls().count("Login") == 1


def test_a_session_is_logged_out(vcsim: VcSim) -> None:
    source = vcsim.source()
    source.power_state(vcsim.vm)
    source.close()
    assert vcsim.calls()[-1] == "Logout"
    assert source.power_state(vcsim.vm) is PowerState.RUNNING  # and may be used again


# ---------------------------------------------------------------- a vCenter in trouble


def test_a_kept_connection_that_was_closed_is_no_error(vcsim: VcSim) -> None:
    source = vcsim.source()
    source.power_state(vcsim.vm)
    vcsim.order("cut", None)
    assert source.power_state(vcsim.vm) is PowerState.RUNNING


def test_a_lost_answer_never_makes_two_snapshots(vcsim: VcSim) -> None:
    vcsim.fault("CreateSnapshot_Task", Drop=True, After=True)
    source = vcsim.source()
    with pytest.raises(Unreachable), source.read_changes(vcsim.vm, None, "refloat-1"):
        pass
    assert vcsim.calls().count("CreateSnapshot_Task") == 1
    with source.read_changes(vcsim.vm, None, "refloat-2"):  # cleans up what nobody answered for
        pass
    assert leftovers(vcsim) == []


def test_a_silent_vcenter_has_a_deadline(vcsim: VcSim) -> None:
    vcsim.fault("FindByInventoryPath", Delay=3000)
    began = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        vcsim.source(timeout=0.5).power_state(vcsim.path)
    assert time.monotonic() - began < 2.5 and "within" in caught.value.message


@pytest.mark.parametrize("status", [503, 502, 404])
def test_a_proxy_that_answers_in_its_place(vcsim: VcSim, status: int) -> None:
    vcsim.fault("FindByInventoryPath", Status=status)
    with pytest.raises(Unreachable):
        vcsim.source().power_state(vcsim.path)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("HostNotConnected", Unreachable, "host_disconnected"),
        ("ManagedObjectNotFound", NotFound, "no_such_vm"),
        ("SystemError", Failed, "vsphere_SystemError"),
    ],
)
def test_faults_as_errors_of_ours(vcsim: VcSim, fault: str, kind: type[RefloatError], code: str) -> None:
    inner = '<obj type="VirtualMachine">vm-1</obj>' if fault == "ManagedObjectNotFound" else ""
    vcsim.fault("RetrievePropertiesEx", Fault=fault, Inner=inner)
    with pytest.raises(kind) as caught:
        vcsim.source().power_state(vcsim.path)
    assert caught.value.code == code and caught.value.hint


def test_a_vcenter_that_is_gone(vcsim: VcSim) -> None:
    with pytest.raises(Unreachable) as caught:
        vcsim.source(port=1).inventory(vcsim.vm)
    assert "127.0.0.1:1" in caught.value.message
