from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from refloat.errors import NotFound, Refused
from refloat.estate import Estate, load_estate
from refloat.lab.estate import render_config, render_estate
from refloat.lab.layout import Lab
from refloat.model import DiskBus, Mode, NicModel
from refloat.policy import (
    DirtyNtfs,
    Hibernated,
    NicRule,
    PinNames,
    Readdress,
    Rebuild,
    SanPolicy,
    When,
    WindowsPolicy,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "estate.yaml"
    path.write_text(render_estate(Lab(directory=tmp_path), "ssh-ed25519 AAAA"))
    return path


def change(file: Path, *path: str | int, to: object) -> Path:
    data = yaml.safe_load(file.read_text())
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = to
    file.write_text(yaml.safe_dump(data))
    return file


def test_the_labs_estate_is_a_real_estate(file: Path) -> None:
    estate: Estate = load_estate(file)
    target = estate.target("lab-web")
    assert target.source_vm == "refloat-lab-source"
    assert [disk.key for disk in target.disks] == ["sda", "sdb"]
    assert estate.policy(target.policy).probes[0].expect == "SSH-2.0-"
    assert estate.networks().of("10.20.30.0/24", Mode.PLANNED) == "production"
    assert estate.networks().of("10.20.30.0/24", Mode.TEST) == "bubble"
    assert estate.networks().of("dmz", Mode.TEST) is None


NIC = "00:50:56:AA:bb:cc"
SUBNET = {"from": "10.20.30.0/24", "to": "192.168.7.0/24", "gateway": "192.168.7.1", "when": "live"}


def test_other_subnets_are_rules_of_the_mapping(file: Path) -> None:
    networks = load_estate(change(file, "mappings", 0, "readdress", to=[SUBNET])).networks()
    rule = Readdress("10.20.30.0/24", "192.168.7.0/24", "192.168.7.1", when=When.LIVE)
    assert networks.rules("10.20.30.0/24", Mode.PLANNED) == (rule,)
    assert networks.rules("10.20.30.0/24", Mode.TEST) == ()
    assert networks.rules("dmz", Mode.PLANNED) == ()


def test_an_adapters_own_rule(file: Path) -> None:
    own = {"addresses": ["192.168.7.9/24"], "gateway": "192.168.7.1", "dns": ["9.9.9.9"]}
    policy = load_estate(change(file, "policies", "lab", "nics", to={NIC: own})).policy("lab")
    wanted = NicRule(NIC.lower(), None, ("192.168.7.9/24",), "192.168.7.1", dns=("9.9.9.9",))
    assert policy.nic(NIC) == wanted
    assert policy.nic("00:00:00:00:00:01") == NicRule("00:00:00:00:00:01")
    assert policy.pin_names is PinNames.AUTO


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"from": "10.0.0.0/8"}], "mappings.0.readdress.0.to"),
        ([{"from": "10.0.0.1/8", "to": "10.0.0.0/8"}], "mappings.0.readdress.0.from"),
        ([{"from": "10.0.0.0/8", "to": "fd00::/64"}], "not of one family"),
        ([{**SUBNET, "gateway": "10.20.30.1"}], "10.20.30.1 is not in 192.168.7.0/24"),
        ([{**SUBNET, "when": "sometimes"}], "readdress.0.when"),
        ([SUBNET, {**SUBNET, "when": "always"}], "two rules say what 10.20.30.0/24 becomes"),
    ],
)
def test_rules_that_cannot_be_meant(file: Path, rules: list[dict[str, str]], words: str) -> None:
    with pytest.raises(Refused, match=words):
        load_estate(change(file, "mappings", 0, "readdress", to=rules))


@pytest.mark.parametrize(
    ("nics", "words"),
    [
        ({"eth0": {}}, "policies.lab.nics.eth0"),
        ({NIC: {"addresses": ["10.0.0.1"]}}, "has no prefix"),
        ({NIC: {"addresses": ["10.0.0.300/24"]}}, "10.0.0.300"),
        ({NIC: {"addresses": ["10.0.0.1/24"], "network": "dhcp"}}, "not for dhcp"),
        ({NIC: {"gateway": "10.0.0.1"}}, "need addresses"),
        ({NIC: {"addresses": ["10.0.0.1/24"], "gateway": "10.0.1.1"}}, "subnet of none"),
        ({NIC: {"addresses": ["10.0.0.1/24"], "gateway6": "10.0.0.2"}}, "no gateway for IPv6"),
        ({NIC: {"pin_names": "sometimes"}}, "pin_names"),
    ],
)
def test_adapters_that_cannot_be_meant(file: Path, nics: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words):
        load_estate(change(file, "policies", "lab", "nics", to=nics))


LUKS = "C0FFEE00-1111-4222-8333-444455556666"


def test_hardware_and_keys_are_the_policys(file: Path) -> None:
    plain = load_estate(file).policy("lab")
    assert (plain.disk_bus, plain.nic_model) == (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    change(file, "policies", "lab", "disk_bus", to="virtio-scsi")
    change(file, "policies", "lab", "nic_model", to="e1000e")
    change(file, "policies", "lab", "luks_keys", to={LUKS: "/etc/refloat/no-such-key"})
    policy = load_estate(file).policy("lab")
    assert (policy.disk_bus, policy.nic_model) == (DiskBus.VIRTIO_SCSI, NicModel.E1000E)
    assert policy.luks_keys == {LUKS.lower(): "/etc/refloat/no-such-key"}, "no file is read here"


def test_no_code_of_a_guest_runs_unless_the_policy_says_so(file: Path) -> None:
    assert load_estate(file).policy("lab").rebuild is Rebuild.NEVER
    assert load_estate(change(file, "policies", "lab", "rebuild", to="allowed")).policy("lab").rebuild is (
        Rebuild.ALLOWED
    )
    with pytest.raises(Refused, match=r"policies.lab.rebuild"):
        load_estate(change(file, "policies", "lab", "rebuild", to=True))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"luks-root": "/key"}, "policies.lab.luks_keys.luks-root"),
        ({f"{LUKS}\n": "/key"}, "policies.lab.luks_keys"),
        ({LUKS: "key"}, "'key' is no absolute path"),
        ({LUKS: "/key\0"}, "no absolute path"),
        ({LUKS: ""}, "no absolute path"),
        ({LUKS: "/key", LUKS.lower(): "/other"}, "one container is named twice"),
    ],
)
def test_keys_that_cannot_be_meant(file: Path, keys: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        load_estate(change(file, "policies", "lab", "luks_keys", to=keys))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("policies", "lab", "disk_bus"), "ide", "policies.lab.disk_bus"),
        (("policies", "lab", "nic_model"), "rtl8139", "policies.lab.nic_model"),
        (("version",), 2, "version"),
        (("sites", "lab-source", "platform"), "xen", "sites.lab-source.platform"),
        (("policies", "lab", "shutdown_deadline"), -1, "policies.lab.shutdown_deadline"),
        (("policies", "lab", "mcas"), "keep", "policies.lab.mcas"),
        (("targets", "lab-web", "site"), "moon", "targets.lab-web.site: 'moon' is not declared"),
        (("protected", "lab-web", "policy"), "gold", "protected.lab-web.policy: 'gold' is not declared"),
        (("mappings", 0, "to"), "nowhere", "network 'nowhere' is not declared"),
        (("sites", "lab-recovery", "networks", "production", "subnet"), "10.20.30.40/24", "subnet"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    file: Path, path: tuple[str | int, ...], value: object, words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        load_estate(change(file, *path, to=value))
    assert caught.value.hint


def with_second_target(file: Path, **changes: object) -> Path:
    """A second target beside the lab's, with a protected VM, a source site and a controller of its own."""
    data = yaml.safe_load(file.read_text())
    names: dict[str, object] = {"site": "other", "vm": "mail", "controller": "mail-controller", **changes}
    data["sites"]["other"] = {"platform": "libvirt", "uri": "qemu+ssh://kvm2/system"}
    data["sites"]["same"] = dict(data["sites"]["lab-source"])
    data["protected"]["mail"] = {"site": names["site"], "vm": names["vm"]}
    known = deepcopy(data["targets"]["lab-web"])  # the same object twice would be an alias in the file
    data["targets"]["mail"] = {
        **known,
        "protected": names.get("protected", "mail"),
        "controller": {**known["controller"], "vm": names["controller"]},
    }
    file.write_text(yaml.safe_dump(data))
    return file


def test_targets_of_different_vms_are_an_estate(file: Path) -> None:
    # The same name at another site is another VM.
    estate = load_estate(with_second_target(file, vm="refloat-lab-source"))
    assert list(estate.targets) == ["lab-web", "mail"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protected": "lab-web"}, "VM refloat-lab-source is already protected by target lab-web"),
        ({"site": "lab-source", "vm": "refloat-lab-source"}, "already protected by target lab-web"),
        ({"site": "same", "vm": "refloat-lab-source"}, "already protected by target lab-web"),
        ({"controller": "refloat-lab-controller"}, "is already the controller of lab-web"),
    ],
    ids=["one entry, two targets", "two entries", "two names of one site", "one controller"],
)
def test_two_targets_never_share_a_vm(file: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        load_estate(with_second_target(file, **changes))
    assert caught.value.code == "bad_estate" and caught.value.hint


def test_a_missing_file_and_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        load_estate(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(Refused, match="no YAML"):
        load_estate(tmp_path / "bad.yaml")


def test_an_unknown_target_is_not_found(file: Path) -> None:
    with pytest.raises(NotFound, match="unknown target: mail"):
        load_estate(file).target("mail")


def test_the_labs_config_names_its_own_files(tmp_path: Path) -> None:
    settings = yaml.safe_load(render_config(Lab(directory=tmp_path)))
    assert settings["data_dir"] == str(tmp_path / "hub")


def test_what_holds_for_windows_guests_alone(file: Path) -> None:
    assert load_estate(file).policy("lab").windows == WindowsPolicy()
    own = {
        "hibernated": "discard",
        "ntfs_dirty": "repair",
        "san_policy": "offline-shared",
        "online_shared": ["sdc"],
        "report_deadline": 1800,
    }
    windows = load_estate(change(file, "policies", "lab", "windows", to=own)).policy("lab").windows
    assert windows == WindowsPolicy(
        Hibernated.DISCARD, DirtyNtfs.REPAIR, SanPolicy.OFFLINE_SHARED, ("sdc",), 1800
    )
    assert [policy.number for policy in SanPolicy] == [None, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [("hibernated", "resume"), ("ntfs_dirty", "ignore"), ("san_policy", 4), ("online_shared", "all")],
)
def test_windows_policies_that_cannot_be_meant(file: Path, name: str, value: object) -> None:
    with pytest.raises(Refused, match=f"policies.lab.windows.{name}"):
        load_estate(change(file, "policies", "lab", "windows", to={name: value}))
