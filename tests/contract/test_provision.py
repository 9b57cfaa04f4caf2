"""The contract of provisioners: over a simulated platform, libvirt, and libvirt through ssh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.controller.seed import controller_seed
from refloat.destinations.libvirt_provision import OWN_SERIAL
from refloat.errors import Refused
from refloat.model import AttachedDisk, PowerState, ReplicaDisk
from tests.contract.destination_rigs import URI, libvirt_missing, libvirt_pool
from tests.contract.libvirt_ssh import libvirt_over_ssh, ssh_missing
from tests.contract.provision_rigs import (
    MIB,
    CloudStackProvisionRig,
    LibvirtProvisionRig,
    ProvisionRig,
    SimulatedProvisionRig,
    expected_own_disk,
)

SEED = controller_seed("ssh-ed25519 AAAA hub", b"host key\n", "ssh-ed25519 BBBB host")
LIBVIRT = ("libvirt", "libvirt-ssh")


class HubKilledError(Exception):
    """The hub dies here."""


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[Path, str]]:
    with libvirt_pool() as pool:
        yield pool


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    reason = ssh_missing()
    if reason:
        pytest.skip(reason)
    with libvirt_over_ssh() as uri:
        yield uri


@pytest.fixture(params=("simulated", "cloudstack", *LIBVIRT))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProvisionRig]:
    if request.param == "simulated":
        yield SimulatedProvisionRig(tmp_path)
        return
    if request.param == "cloudstack":
        there = CloudStackProvisionRig(tmp_path)
        yield there
        there.close()
        return
    if reason := libvirt_missing():
        pytest.skip(reason)
    directory, pool = request.getfixturevalue("storage")
    uri = request.getfixturevalue("remote") if request.param == "libvirt-ssh" else URI
    made = LibvirtProvisionRig(directory, pool, tmp_path, uri)
    try:
        yield made
    finally:
        made.close()


def silent(_: str) -> None:
    """Nobody listens."""


def serials(rig: ProvisionRig) -> list[str]:
    return [disk.serial for disk in rig.destination.hardware(rig.wanted.vm).disks]


def test_a_controller_with_its_replica_volumes(rig: ProvisionRig) -> None:
    wanted = rig.wanted
    rig.provisioner.check(wanted)
    assert rig.provisioner.left(wanted) == ()
    made = rig.provisioner.make(wanted, SEED, silent)
    assert [disk.key for disk in made] == ["sda", "sdb"]
    found = rig.destination.hardware(wanted.vm)
    assert (found.cpus, found.memory) == (1, 64 * MIB)
    assert [nic.network for nic in found.nics] == ["management"]
    assert [nic.mac for nic in found.nics] == [wanted.mac]
    assert serials(rig)[1:] == [disk.serial for disk in made]
    assert rig.destination.power_state(wanted.vm) is PowerState.OFF
    if rig.own_disk():  # a platform that rounds sizes up shows it to the controller
        sizes = [rig.file(disk.volume).stat().st_size for disk in found.disks[1:]]
        assert sizes == [disk.capacity for disk in wanted.disks]
    if own := rig.own_disk():
        assert own == expected_own_disk(SEED)
    assert len(rig.provisioner.left(wanted)) == rig.parts


def test_twice_is_once(rig: ProvisionRig) -> None:
    first = rig.provisioner.make(rig.wanted, SEED, silent)
    volume = rig.file(rig.destination.hardware(rig.wanted.vm).disks[1].volume)
    volume.write_bytes(b"\x07" * 2 * MIB)
    assert rig.provisioner.make(rig.wanted, SEED, silent) == first
    assert len(rig.provisioner.left(rig.wanted)) == rig.parts
    assert volume.read_bytes() == b"\x07" * 2 * MIB, "a replica was made anew over its content"


@pytest.mark.parametrize("act", range(6))
def test_a_kill_before_each_act(rig: ProvisionRig, act: int) -> None:
    if act >= rig.acts:
        pytest.skip("this platform has fewer acts")
    said: list[str] = []

    def dies(text: str) -> None:
        said.append(text)
        if len(said) == act + 1:
            raise HubKilledError

    with pytest.raises(HubKilledError):
        rig.provisioner.make(rig.wanted, SEED, dies)
    rig.provisioner.make(rig.wanted, SEED, silent)
    assert len(rig.provisioner.left(rig.wanted)) == rig.parts
    if own := rig.own_disk():
        assert own == expected_own_disk(SEED)


@pytest.mark.parametrize("act", range(6))
def test_what_a_kill_left_is_removed(rig: ProvisionRig, act: int) -> None:
    if act >= rig.acts:
        pytest.skip("this platform has fewer acts")
    said: list[str] = []

    def dies(text: str) -> None:
        said.append(text)
        if len(said) == act + 1:
            raise HubKilledError

    with pytest.raises(HubKilledError):
        rig.provisioner.make(rig.wanted, SEED, dies)
    rig.provisioner.remove(rig.wanted)
    assert rig.provisioner.left(rig.wanted) == ()


def test_removal_takes_only_what_is_ours(rig: ProvisionRig) -> None:
    other = replace(rig.wanted, id="ffffffff", vm=f"{rig.wanted.vm}x", mac="52:54:00:aa:bb:cd")
    rig.provisioner.make(rig.wanted, SEED, silent)
    rig.provisioner.make(other, SEED, silent)
    try:
        rig.provisioner.remove(rig.wanted)
        assert rig.provisioner.left(rig.wanted) == ()
        assert len(rig.provisioner.left(other)) == rig.parts
        rig.provisioner.remove(rig.wanted)
    finally:
        rig.provisioner.remove(other)


def test_a_vm_of_others_with_that_name_is_refused(rig: ProvisionRig) -> None:
    rig.provisioner.make(rig.wanted, SEED, silent)
    stranger = replace(rig.wanted, id="00000000")
    for verb in (
        lambda: rig.provisioner.check(stranger),
        lambda: rig.provisioner.make(stranger, SEED, silent),
        lambda: rig.provisioner.remove(stranger),
    ):
        with pytest.raises(Refused) as refused:
            verb()
        assert refused.value.code == "vm_exists"
    assert len(rig.provisioner.left(rig.wanted)) == rig.parts


def test_a_recovered_vm_is_not_removed(rig: ProvisionRig) -> None:
    """Its first disk is the replica then, and the controller's own is parked."""
    rig.provisioner.make(rig.wanted, SEED, silent)
    disks = rig.destination.hardware(rig.wanted.vm).disks
    rig.destination.set_disks(rig.wanted.vm, disks[1:])
    with pytest.raises(Refused) as refused:
        rig.provisioner.remove(rig.wanted)
    assert refused.value.code == "in_use"
    assert len(rig.provisioner.left(rig.wanted)) == rig.parts
    rig.destination.set_disks(rig.wanted.vm, disks)


@pytest.mark.parametrize("wrong", [{"network": "nowhere"}])
def test_what_cannot_be_made_is_refused_before(rig: ProvisionRig, wrong: dict[str, str]) -> None:
    with pytest.raises(Refused):
        rig.provisioner.check(replace(rig.wanted, **wrong))  # type: ignore[arg-type]


# ---------------------------------------------------------------- libvirt alone


@pytest.fixture
def libvirt_rig(storage: tuple[Path, str], tmp_path: Path) -> Iterator[LibvirtProvisionRig]:
    if reason := libvirt_missing():
        pytest.skip(reason)
    made = LibvirtProvisionRig(*storage, scratch=tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"storage": "no-such-pool"}, "no_such_pool"),
        ({"network": "closed"}, "network_closed"),
        ({"network": "bridge"}, "address_needed"),
        ({"image": "/nonexistent"}, "no_image"),
        ({"image": "/etc/passwd"}, "bad_image"),
        ({"image": "", "template": "no-such-volume"}, "no_template"),
    ],
)
def test_wishes_that_libvirt_refuses(
    libvirt_rig: LibvirtProvisionRig, wrong: dict[str, str], code: str
) -> None:
    with pytest.raises(Refused) as refused:
        libvirt_rig.provisioner.check(replace(libvirt_rig.wanted, **wrong))  # type: ignore[arg-type]
    assert refused.value.code == code
    assert libvirt_rig.provisioner.left(libvirt_rig.wanted) == ()


def test_too_little_room_is_refused(libvirt_rig: LibvirtProvisionRig) -> None:
    disks = tuple(replace(disk, capacity=1 << 50) for disk in libvirt_rig.wanted.disks)
    with pytest.raises(Refused) as refused:
        libvirt_rig.provisioner.check(replace(libvirt_rig.wanted, disks=disks, thin=False))
    assert refused.value.code == "no_space"


def test_out_of_a_template_of_the_pool(libvirt_rig: LibvirtProvisionRig) -> None:
    template = libvirt_rig.directory / f"{libvirt_rig.wanted.prefix}template.raw"
    template.write_bytes(Path(libvirt_rig.wanted.image).read_bytes())
    wanted = replace(libvirt_rig.wanted, image="", template=template.name)
    libvirt_rig.provisioner.check(wanted)
    libvirt_rig.provisioner.make(wanted, SEED, silent)
    assert libvirt_rig.own_disk() == expected_own_disk(SEED)
    assert template.read_bytes() == Path(libvirt_rig.wanted.image).read_bytes()


def test_a_template_with_keys_of_its_own_gets_no_seed(libvirt_rig: LibvirtProvisionRig) -> None:
    libvirt_rig.provisioner.make(libvirt_rig.wanted, b"", silent)
    assert libvirt_rig.own_disk() == Path(libvirt_rig.wanted.image).read_bytes()


def test_a_volume_that_another_vm_uses_stays(libvirt_rig: LibvirtProvisionRig) -> None:
    rig = libvirt_rig
    made = rig.provisioner.make(rig.wanted, SEED, silent)
    disks = rig.destination.hardware(rig.wanted.vm).disks
    stolen = replace(rig.wanted, id="ffffffff", vm=f"{rig.wanted.vm}x")
    rig.provisioner.make(stolen, SEED, silent)
    own = rig.destination.hardware(stolen.vm).disks
    try:
        rig.destination.set_disks(stolen.vm, (*own, AttachedDisk("stolen", disks[1].volume)))
        with pytest.raises(Refused) as refused:
            rig.provisioner.remove(rig.wanted)
        assert refused.value.code == "volume_in_use"
        assert Path(disks[1].volume).exists()
    finally:
        rig.provisioner.remove(stolen)
    assert made[0] == ReplicaDisk("sda", rig.wanted.serial(0))
    assert own[0].serial == OWN_SERIAL


def test_where_the_controller_is_reached(libvirt_rig: LibvirtProvisionRig) -> None:
    provisioner, wanted = libvirt_rig.provisioner, libvirt_rig.wanted
    assert provisioner.address(wanted) == "10.90.0.15"
    assert provisioner.address(replace(wanted, address="10.90.0.40/24")) == "10.90.0.40"
