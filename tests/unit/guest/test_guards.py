"""What would take a recovered guest for a new machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from refloat.guest.journal import Journal
from refloat.guest.linux import guards
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, DiskBus, NetworkMode, NicModel, PlannedNic, Secrets

OLD, NEW = "00:50:56:aa:bb:cc", "52:54:00:11:22:33"
RULES = f"""\
# PCI device 0x15ad:0x07b0 (vmxnet3), was {OLD}
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{OLD.upper()}", KERNEL=="eth*", NAME="eth0"
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="00:50:56:aa:bb:dd", NAME="eth1"
"""


def nic(source: str, mac: str) -> PlannedNic:
    return PlannedNic(mac, source, "production", NetworkMode.PRESERVE, None, "test")


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    root = tmp_path / "guest"
    (root / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    (root / "etc/cloud/cloud.cfg").write_text("users: [default]\n")
    (root / "etc/udev/rules.d").mkdir(parents=True)
    (root / "etc/udev/rules.d/70-persistent-net.rules").write_text(RULES)
    (root / "var/lib/cloud/instances/i-1").mkdir(parents=True)
    (root / "var/lib/cloud/instances/i-1/obj.pkl").write_bytes(b"what cloud-init knows")
    (root / "var/lib/cloud/instance").symlink_to("/var/lib/cloud/instances/i-1")
    return root


def change(guest: Path, run: Path, *nics: PlannedNic) -> dict[str, str]:
    """Path -> the content after the change, of every file in the journal."""
    request = AdaptRequest(
        "job-7", (), DiskBus.VIRTIO_BLK, NicModel.VIRTIO, nics, Secrets("t", "n"), "org.refloat.report", 60
    )
    with Tree(guest) as tree:
        journal = Journal(run, tree)
        guards.change(tree, journal, request, lambda step, figures: None)
        return {one.path: (guest / one.path.lstrip("/")).read_text() for one in journal.changes()}


def test_cloud_init_keeps_its_instance_and_its_hands_off_the_network(guest: Path, tmp_path: Path) -> None:
    changed = change(guest, tmp_path / "run")
    assert list(changed) == [guards.GUARD]
    assert "manual_cache_clean: true\nnetwork: {config: disabled}\n" in changed[guards.GUARD]
    assert change(guest, tmp_path / "run") == changed, "a second run changes nothing"


def test_a_cloud_init_that_never_ran_does_not_begin_now(guest: Path, tmp_path: Path) -> None:
    (guest / "var/lib/cloud/instances/i-1/obj.pkl").unlink()  # as after a clean, or an upgrade
    assert list(change(guest, tmp_path / "run")) == [guards.DISABLED]
    assert list(change(guest, tmp_path / "run")) == [guards.DISABLED]


@pytest.mark.parametrize("left", ["var", "var/lib"])
def test_with_var_on_a_filesystem_of_its_own_cloud_init_stays_in_service(
    guest: Path, tmp_path: Path, left: str
) -> None:
    """Nothing tells whether it has run: the machine's services are not to be switched off on a guess."""
    shutil.rmtree(guest / "var")
    (guest / left).mkdir(parents=True)
    assert list(change(guest, tmp_path / "run")) == [guards.GUARD]
    notes = Notes()
    with Tree(guest) as tree:
        guards.look(tree, notes)
    assert len(notes.warnings) == 1
    assert "could not be looked up" in notes.warnings[0]


def test_a_cloud_init_that_its_operator_disabled_stays_so(guest: Path, tmp_path: Path) -> None:
    (guest / "etc/cloud/cloud-init.disabled").write_text("by hand\n")
    assert change(guest, tmp_path / "run") == {}


def test_a_guest_without_cloud_init_gets_nothing(guest: Path, tmp_path: Path) -> None:
    (guest / "etc/cloud/cloud.cfg").unlink()
    assert change(guest, tmp_path / "run") == {}


def test_persistent_names_follow_the_adapter_to_its_new_address(guest: Path, tmp_path: Path) -> None:
    (guest / "etc/cloud/cloud.cfg").unlink()
    changed = change(guest, tmp_path / "run", nic(OLD, NEW), nic("00:50:56:aa:bb:dd", "00:50:56:aa:bb:dd"))
    assert changed == {
        "/etc/udev/rules.d/70-persistent-net.rules": RULES.replace(f'"{OLD.upper()}"', f'"{NEW}"')
    }


def test_two_adapters_that_swap_their_addresses_swap_their_names() -> None:
    other = "00:50:56:aa:bb:dd"
    done = guards.rewrite_persistent_net(RULES, (nic(OLD, other), nic(other, OLD)))
    assert done.text == RULES.replace(other, "x").replace(f'"{OLD.upper()}"', f'"{other}"').replace(
        '"x"', f'"{OLD}"'
    )


def test_what_inspection_says(guest: Path) -> None:
    notes = Notes()
    with Tree(guest) as tree:
        guards.look(tree, notes)
    assert notes.warnings == ["cloud-init is installed and keeps its instance"]
