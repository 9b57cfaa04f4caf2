"""What of the vSphere source needs no vCenter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim, vmodl

from refloat.errors import Refused
from refloat.model import DiskBus
from refloat.secret import SecretRef
from refloat.sources.vsphere_changes import doubt, write_checkpoint
from refloat.sources.vsphere_hardware import VmDisk
from refloat.sources.vsphere_session import best_version, thumbprint

DOCS = Path(__file__).parents[3] / "docs" / "vsphere.md"
# All that the driver calls, by the name in pyVmomi.
CALLS = (
    (vim.VirtualMachine, "ShutdownGuest"),
    (vim.VirtualMachine, "PowerOff"),
    (vim.VirtualMachine, "PowerOn"),
    (vim.VirtualMachine, "CreateSnapshot"),
    (vim.VirtualMachine, "QueryChangedDiskAreas"),
    (vim.vm.Snapshot, "Remove"),
    (vim.host.AutoStartManager, "Reconfigure"),
    (vim.SearchIndex, "FindByUuid"),
    (vim.SearchIndex, "FindByInventoryPath"),
    (vim.view.ViewManager, "CreateContainerView"),
    (vmodl.query.PropertyCollector, "RetrievePropertiesEx"),
)
DISK = VmDisk(
    2000, "Hard disk 1", 1 << 20, DiskBus.PVSCSI, "[ds] a", "u1", "persistent", False, "52 de/7", "", ""
)


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [("6.7.3", "6.7.3"), ("8.0.3.0", "8.0.3.0"), ("8.0.3.7", "8.0.3.1"), ("4.9", "4.1"), ("99.0", "9.1.1.0")],
)
def test_the_newest_version_that_both_know(offered: str, spoken: str) -> None:
    assert best_version(offered) == spoken


def test_thumbprints() -> None:
    assert len(thumbprint(b"x")) == 64 and len(thumbprint(b"x", 40)) == 40


def test_a_checkpoint_reads_back() -> None:
    since = write_checkpoint([DISK])
    assert doubt(DISK, since) == ("52 de/7", "")
    assert write_checkpoint([]) == ""


PLAIN = st.none() | st.integers() | st.text()
ANY_JSON = st.recursive(PLAIN, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@given(st.text() | ANY_JSON.map(json.dumps))
def test_any_other_checkpoint_is_doubted_in_words(since: str) -> None:
    change_id, reason = doubt(DISK, since)
    assert change_id == "" and reason


def test_a_secret_is_read_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("one\n")
    ref = SecretRef(file=str(file))
    assert ref.read() == "one"
    file.write_text("two")
    assert ref.read() == "two"
    monkeypatch.setenv("REFLOAT_TEST_SECRET", "three")
    assert SecretRef(env="REFLOAT_TEST_SECRET").read() == "three"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 100_000])
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(Refused) as caught:
        SecretRef(file=str(file)).read()
    assert caught.value.code == "secret" and "xxx" not in str(caught.value)


@pytest.mark.parametrize(("kind", "method"), CALLS, ids=lambda one: str(one))
def test_the_role_has_what_each_call_needs(kind: Any, method: str) -> None:
    """The privilege by VMware's own description of the API, in the table of the page."""
    info = kind._GetMethodInfo(method)
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("|")]
    assert any(f"`{info.privId}`" in row and f"`{info.wsdlName}`" in row for row in rows)
