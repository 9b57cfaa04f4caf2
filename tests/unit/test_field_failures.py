"""How recovered VMs fail elsewhere: each case has its proofs, and those that no other test gives."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

import pytest

from refloat.decide import Place, plan_nics
from refloat.guest.inspect import examine
from refloat.guest.linux.network.stacks import read
from refloat.guest.linux.render import Rendered, render
from refloat.guest.tree import Tree
from refloat.model import DiskBus, NetworkMode, NicConfig, NicMethod, NicModel, SourceNic
from refloat.policy import Policy
from tests import field_failures
from tests.field_failures import CASES
from tests.unit.guest.guests import ORDER, SWAP_UUID, found, make_guest

TESTS = Path(field_failures.__file__).parent
OLD, NEW = "00:50:56:aa:bb:cc", "52:54:00:00:00:01"


# ---------------------------------------------------------------- the table


@cache
def _tests_of(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_case_is_met_and_every_proof_exists() -> None:
    assert [case.number for case in CASES] == list(range(1, 26))
    for case in CASES:
        assert case.windows or case.met, case.number
        assert bool(case.met) == bool(case.how) == bool(case.proofs), case.number
        assert len(set(case.proofs)) == len(case.proofs), case.number
        for proof in case.proofs:
            path, _, name = proof.partition("::")
            assert name.startswith("test_") and name in _tests_of(path), proof


def test_document_is_up_to_date() -> None:
    assert field_failures.DOCUMENT.read_text() == field_failures.render(), (
        "python -m tests.field_failures --write"
    )


# ---------------------------------------------------------------- 12: ties to the old address

TIED = {
    "ifcfg": (
        "/etc/sysconfig/network-scripts/ifcfg-ens192",
        f"DEVICE=ens192\nHWADDR={OLD.upper()}\nBOOTPROTO=none\nIPADDR=10.20.30.40\nPREFIX=24\nONBOOT=yes\n",
    ),
    "networkmanager": (
        "/etc/NetworkManager/system-connections/lan.nmconnection",
        "[connection]\nid=lan\ntype=ethernet\ninterface-name=ens192\n\n"
        f"[ethernet]\nmac-address={OLD.upper()}\n\n[ipv4]\nmethod=manual\naddress1=10.20.30.40/24\n",
    ),
    "netplan": (
        "/etc/netplan/01-lan.yaml",
        "network:\n  version: 2\n  ethernets:\n    ens192:\n      match:\n"
        f"        macaddress: {OLD}\n      addresses: [10.20.30.40/24]\n",
    ),
    "networkd": (
        "/etc/systemd/network/10-lan.network",
        f"[Match]\nMACAddress={OLD}\n\n[Network]\nAddress=10.20.30.40/24\n",
    ),
}


@pytest.mark.parametrize("stack", TIED)
def test_a_tie_to_the_old_address_follows_the_adapter(stack: str) -> None:
    path, text = TIED[stack]
    (nic,) = read(stack, {path: text}).nics
    adapter = Rendered(0, nic.name, nic, NetworkMode.RESTORE, mac=NEW, source_mac=OLD)
    (file,) = render(stack, {path: text}, [adapter])
    assert file.text is not None
    assert NEW in file.text.lower() and OLD not in file.text.lower()
    assert "10.20.30.40" in file.text


# ---------------------------------------------------------------- 15: adapters that get lost


def test_every_adapter_is_carried_with_its_own_address() -> None:
    nics = [SourceNic(f"00:50:56:00:00:0{number}", NicModel.VMXNET3, "lan", "") for number in range(1, 5)]
    configs = [
        NicConfig(f"lan{number}", NicMethod.STATIC, (f"10.20.{number}.40/24",), mac=nic.mac)
        for number, nic in enumerate(nics, 1)
    ]
    places = [Place(nic, f"52:54:00:00:00:0{number}", "production", ()) for number, nic in enumerate(nics, 1)]
    planned = plan_nics(places, configs, Policy())
    assert [one.source_mac for one in planned] == [nic.mac for nic in nics]
    assert len({one.mac for one in planned}) == len(nics)
    assert [one.config for one in planned] == configs


# ---------------------------------------------------------------- 20: keys that stay behind


@pytest.mark.skipif(os.geteuid() != 0, reason="a guest's files belong to root")
def test_a_key_in_a_tpm_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    root = make_guest(tmp_path / "guest")
    (root / "etc/crypttab").write_text(f"data UUID={SWAP_UUID} none luks,tpm2-device=auto\n")
    with Tree(root) as tree:
        facts = examine(tree, found(tree), ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert any("tpm2-device=auto, which is not replicated" in one for one in facts.warnings)
