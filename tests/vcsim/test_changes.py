"""Changed blocks and snapshots: what is asked of vSphere, and when a whole compare is due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Failed, RefloatError, Refused, Unreachable
from refloat.sources.base import ChangeSet
from refloat.sources.vsphere import VsphereSource
from refloat.sources.vsphere_changes import DESCRIPTION, snapshots
from refloat.sources.vsphere_settings import ChangeTracking, Quiesce
from refloat.sync.nbd import connected
from tests.vcsim.rig import MIB, PASSWORD, VcSim

BLOCK = 65536


def left(source: VsphereSource, vm: str) -> list[str]:
    return sorted(one.name for one in snapshots(source._session, source._find(vm)))


def once(source: VsphereSource, vm: str, since: str | None = None, name: str = "refloat-1") -> ChangeSet:
    with source.read_changes(vm, since, name) as changes:
        return changes


def test_the_first_sync_reads_what_is_allocated(vcsim: VcSim) -> None:
    vcsim.write("2000", MIB, 3 * BLOCK, 7)
    vcsim.write("2000", 4 * MIB, BLOCK, 7)  # the odd end of the disk
    changes = once(vcsim.source(), vcsim.vm)
    assert [one.areas for one in changes.disks] == [None, None]
    whole = [sum(end - start for start, end in one.allocated or ()) for one in changes.disks]
    assert whole == [4 * BLOCK, 0]
    # The simulator answers for 1 MiB at a time: the disk was asked for in a loop.
    assert vcsim.calls().count("QueryChangedDiskAreas") == 5 + 2


def test_the_checkpoint_names_each_disk(vcsim: VcSim) -> None:
    changes = once(vcsim.source(), vcsim.vm)
    known = json.loads(changes.checkpoint)["disks"]
    assert set(known) == {"2000", "2001"}
    assert known["2000"][0].endswith("/" + known["2001"][0].rpartition("/")[2])
    assert known["2000"][1:] == [4 * MIB + BLOCK, "6000C292000"]


DOUBTS: list[tuple[str, dict[str, Any], str]] = [
    ("2000", {"UUID": "another"}, "another disk"),
    ("2001", {"Capacity": 2 * MIB + BLOCK}, "resized"),
]


@pytest.mark.parametrize(("key", "change", "why"), DOUBTS)
def test_a_disk_that_is_another_now_is_compared(
    vcsim: VcSim, key: str, change: dict[str, Any], why: str
) -> None:
    source = vcsim.source()
    first = once(source, vcsim.vm)
    if "Capacity" in change:
        vcsim.files[key].write_bytes(bytes(change["Capacity"]))
    units = {"2000": 0, "2001": 1}
    vcsim.set(
        Disks=[vcsim.disk(one, unit=unit, **(change if one == key else {})) for one, unit in units.items()]
    )
    doubted = {one.key: one for one in once(source, vcsim.vm, first.checkpoint).disks}
    assert doubted[key].areas is None and why in doubted[key].reason
    (other,) = set(doubted) - {key}
    assert doubted[other].areas == ()


def test_records_that_were_started_anew_lead_to_a_compare(vcsim: VcSim) -> None:
    source = vcsim.source()
    first = once(source, vcsim.vm)
    vcsim.set(ResetTracking=True)
    changes = once(source, vcsim.vm, first.checkpoint)
    assert all(one.areas is None and "anew" in one.reason for one in changes.disks)
    assert all(one.areas is not None for one in once(source, vcsim.vm, changes.checkpoint).disks)


def test_a_change_id_that_vsphere_does_not_accept_leads_to_a_compare(vcsim: VcSim) -> None:
    source = vcsim.source()
    first = once(source, vcsim.vm)
    vcsim.fault("QueryChangedDiskAreas", Fault="FileFault", Inner="<file>x</file>")
    first_disk, second_disk = once(source, vcsim.vm, first.checkpoint).disks
    assert first_disk.areas is None and "FileFault" in first_disk.reason
    assert second_disk.areas == ()


def test_a_vcenter_that_falls_silent_is_no_reason_for_a_compare(vcsim: VcSim) -> None:
    source = vcsim.source()
    first = once(source, vcsim.vm)
    vcsim.fault("QueryChangedDiskAreas", Drop=True, Count=3)
    with pytest.raises(Unreachable):
        once(source, vcsim.vm, first.checkpoint)


def test_storage_that_does_not_know_what_is_allocated(vcsim: VcSim) -> None:
    vcsim.fault("QueryChangedDiskAreas", Fault="NotSupported", Count=2)
    changes = once(vcsim.source(), vcsim.vm)
    assert [one.allocated for one in changes.disks] == [None, None]


# ---------------------------------------------------------------- tracking


def test_tracking_is_turned_on_with_the_cycle_that_it_needs(vcsim: VcSim) -> None:
    vcsim.set(Tracking=False)
    changes = once(vcsim.source(), vcsim.vm)
    calls = vcsim.calls()
    assert calls.count("ReconfigVM_Task") == 1 and calls.count("CreateSnapshot_Task") == 2
    assert changes.checkpoint and changes.said == ()
    again = once(vcsim.source(), vcsim.vm, changes.checkpoint)
    assert all(one.areas == () for one in again.disks)
    assert vcsim.calls().count("ReconfigVM_Task") == 0


def test_tracking_stays_off_where_the_site_says_so(vcsim: VcSim) -> None:
    vcsim.set(Tracking=False)
    source = vcsim.source(change_tracking=ChangeTracking.REPORT)
    changes = once(source, vcsim.vm)
    assert changes.checkpoint == "" and "report" in changes.said[0]
    assert "ReconfigVM_Task" not in vcsim.calls()
    assert all(one.allocated is None for one in changes.disks)


def test_tracking_is_not_turned_on_while_there_are_snapshots(vcsim: VcSim) -> None:
    vcsim.set(Tracking=False)
    source = vcsim.source()
    session, vm = source._session, source._find(vcsim.vm)
    task = session.call("x", lambda _: vm.CreateSnapshot_Task("by hand", "", False, False))
    mine = session.wait("x", task)
    try:
        changes = once(source, vcsim.vm)
        assert "while the VM has snapshots" in changes.said[0]
        assert left(source, vcsim.vm) == ["by hand"]
    finally:
        session.wait("x", session.call("x", lambda _: mine.RemoveSnapshot_Task(False, True)))


# ---------------------------------------------------------------- snapshots


def test_only_snapshots_of_our_own_are_ever_removed(vcsim: VcSim) -> None:
    source = vcsim.source()
    session, vm = source._session, source._find(vcsim.vm)
    made = []
    for name, description in (
        ("refloat-old", DESCRIPTION),
        ("refloat-mine", "by hand"),
        ("backup", DESCRIPTION),
    ):
        order = (name, description, False, False)
        task = session.call("x", lambda _, order=order: vm.CreateSnapshot_Task(*order))  # type: ignore[misc]
        made.append(session.wait("x", task))
    try:
        once(source, vcsim.vm)
        assert left(source, vcsim.vm) == ["backup", "refloat-mine"]
    finally:
        for one in reversed(made[1:]):
            session.wait("x", session.call("x", lambda _, one=one: one.RemoveSnapshot_Task(False, True)))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("quiesce", "tools", "quiesced", "said"),
    [
        (Quiesce.TRY, "guestToolsRunning", True, ""),
        (Quiesce.TRY, "guestToolsNotRunning", False, "crash-consistent"),
        (Quiesce.NEVER, "guestToolsRunning", False, ""),
        (Quiesce.REQUIRE, "guestToolsRunning", True, ""),
    ],
)
def test_quiescing(vcsim: VcSim, quiesce: Quiesce, tools: str, quiesced: bool, said: str) -> None:
    vcsim.set(Tools=tools)
    source = vcsim.source(quiesce=quiesce)
    with source.read_changes(vcsim.vm, None, "refloat-1") as changes:
        (node,) = snapshots(source._session, source._find(vcsim.vm))
        assert node.quiesced is quiesced
    assert (said in changes.said[0]) if said else changes.said == ()


def test_a_quiesced_snapshot_that_fails(vcsim: VcSim) -> None:
    vcsim.fault("CreateSnapshot_Task", Fault="ApplicationQuiesceFault", Task=True)
    changes = once(vcsim.source(), vcsim.vm)
    assert "ApplicationQuiesceFault" in changes.said[0]
    vcsim.fault("CreateSnapshot_Task", Fault="ApplicationQuiesceFault", Task=True)
    with pytest.raises(Failed):
        once(vcsim.source(quiesce=Quiesce.REQUIRE), vcsim.vm)
    vcsim.set(Tools="guestToolsNotRunning")
    with pytest.raises(Refused) as caught:
        once(vcsim.source(quiesce=Quiesce.REQUIRE), vcsim.vm)
    assert caught.value.code == "not_quiesced"


def test_a_vm_that_is_off_is_at_rest(vcsim: VcSim) -> None:
    vcsim.set(Power="poweredOff", Tools="guestToolsNotRunning")
    assert once(vcsim.source(quiesce=Quiesce.REQUIRE), vcsim.vm).said == ()


def test_a_snapshot_that_cannot_be_removed_goes_with_the_next_sync(
    vcsim: VcSim, caplog: pytest.LogCaptureFixture
) -> None:
    source = vcsim.source()
    vcsim.fault("RemoveSnapshot_Task", Fault="GenericVmConfigFault", Task=False, Count=3)
    once(source, vcsim.vm)
    assert left(source, vcsim.vm) == ["refloat-1"] and "stays on the source" in caplog.text
    once(source, vcsim.vm, name="refloat-2")
    assert left(source, vcsim.vm) == []


def test_a_failure_inside_leaves_nothing_behind(vcsim: VcSim) -> None:
    source = vcsim.source()
    with pytest.raises(ZeroDivisionError), source.read_changes(vcsim.vm, None, "refloat-1"):
        raise ZeroDivisionError
    assert left(source, vcsim.vm) == []


# ---------------------------------------------------------------- the reader


def test_the_reader_is_told_what_vddk_needs(vcsim: VcSim) -> None:
    words = ("{server}", "{port}", "{user}", "{thumbprint}", "{thumbprint_sha256}")
    settings = vcsim.settings()
    # The stand-in wants exactly its own words: these come first, for an interpreter that ignores them.
    source = vcsim.source(reader=("env", *(f"X{n}={one}" for n, one in enumerate(words)), *settings.reader))
    with (
        source.read_changes(vcsim.vm, None, "refloat-1") as changes,
        connected(changes.disks[0].uri) as handle,
    ):
        assert handle.get_size() == 4 * MIB + BLOCK
        environment = _environment_of(changes.disks[0].uri.partition("socket=")[2])
    sha1, sha256 = vcsim.certificate.sha1, vcsim.certificate.sha256
    assert environment["X0"] == "127.0.0.1" and environment["X1"] == str(vcsim.port)
    assert environment["X2"] == settings.user
    assert environment["X3"].replace(":", "").lower() == sha1
    assert environment["X4"].replace(":", "").lower() == sha256
    told = vcsim.readers()[-2:]  # they start side by side
    names = [f"[LocalDS_0] web/web-{key}.vmdk" for key in vcsim.files]
    assert sorted(one["disk"] for one in told) == names
    assert all(one["vm"].startswith("vm-") and one["snapshot"].startswith("snapshot-") for one in told)


def _environment_of(mark: str) -> dict[str, str]:
    """Of the process that has this word in its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"nbdkit" in (words := (process / "cmdline").read_bytes()) and mark.encode() in words:
                pairs = (process / "environ").read_text().split("\0")
                return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        except OSError:
            continue
    raise AssertionError(f"no process with {mark}")


@pytest.mark.parametrize(
    ("reader", "code", "said"),
    [
        ((), "no_reader", "names no program"),
        (("refloat-no-such-program", "{socket}"), "program_missing", "refloat-no-such-program"),
        (("false", "{socket}"), "command_failed", "false"),
        (
            ("sh", "-c", "echo no VDDK in libdir >&2; exit 1", "{socket}"),
            "command_failed",
            "no VDDK in libdir",
        ),
    ],
)
def test_a_reader_that_does_not_come_up(vcsim: VcSim, reader: tuple[str, ...], code: str, said: str) -> None:
    source = vcsim.source(reader=reader)
    with pytest.raises(RefloatError) as caught:
        once(source, vcsim.vm)
    assert caught.value.code == code and said in caught.value.message
    assert PASSWORD not in str(caught.value)
    assert left(source, vcsim.vm) == []


def test_what_a_reader_says_is_in_the_error(vcsim: VcSim) -> None:
    """And the password is not, even where the program says it."""
    shell = "echo 'cannot log in with password' \"$(cat $1)\" >&2; exit 3"
    source = vcsim.source(reader=("sh", "-c", shell, "sh", "{password_file}", "{socket}"))
    with pytest.raises(RefloatError) as caught:
        once(source, vcsim.vm)
    assert "cannot log in" in str(caught.value) and PASSWORD not in str(caught.value)


def test_no_file_and_no_process_is_left(vcsim: VcSim) -> None:
    source = vcsim.source()
    with source.read_changes(vcsim.vm, None, "refloat-1") as changes:
        socket = Path(changes.disks[0].uri.partition("socket=")[2])
        assert socket.exists() and not (socket.parent / "password").exists()
        assert socket.parent.stat().st_mode & 0o077 == 0
    assert not socket.parent.exists()
    with pytest.raises(AssertionError, match="no process"):
        _environment_of(str(socket))
