"""Arrays, containers and volumes on a guest's disks: what is activated, in which order, and taken down.

The machine is a double: a /sys of plain files that the doubles of the tools change as the kernel would.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from refloat.command import Completed
from refloat.errors import Failed, Refused
from refloat.guest import leftovers, probe, stack
from refloat.guest.stack import opened

ARRAY = "b5a38bc6-eb0a-1eee-fc1e-3e7e3d0d8b1e"
CONTAINER = "0a1b2c3d-1111-4222-8333-444455556666"
KEY = "correct horse"


class Machine:
    """Tells what each node holds, keeps what was run, and moves its /sys as the tools would."""

    def __init__(self, root: Path) -> None:
        self.sys = root / "sys"
        self.tags: dict[str, dict[str, str]] = {}
        self.ran: list[str] = []
        self.inputs: list[bytes] = []
        self.groups: dict[str, list[dict[str, str]]] = {}
        self.parts: dict[str, list[str]] = {}  # group: the nodes of its physical volumes
        self.fails: dict[str, tuple[int, str]] = {}
        for place in ("class/misc/device-mapper", "module/md_mod", "class/block"):
            (self.sys / place).mkdir(parents=True)

    @property
    def blocks(self) -> Path:
        return self.sys / "class/block"

    def disk(self, node: str, **tags: str) -> None:
        self._block(node.removeprefix("/dev/"), ())
        self.tags[node] = tags

    def _block(self, name: str, slaves: Sequence[str]) -> None:
        for folder in ("holders", "slaves"):
            (self.blocks / name / folder).mkdir(parents=True)
        for slave in slaves:
            (self.blocks / name / "slaves" / slave).touch()
            (self.blocks / slave / "holders" / name).touch()

    def mapped(self, name: str, slaves: Sequence[str], **tags: str) -> str:
        number = next(n for n in range(99) if not (self.blocks / f"dm-{n}").exists())
        self._block(f"dm-{number}", slaves)
        (self.blocks / f"dm-{number}/dm").mkdir()
        (self.blocks / f"dm-{number}/dm/name").write_text(f"{name}\n")
        self.tags.setdefault(f"/dev/dm-{number}", tags)
        return f"dm-{number}"

    def run(self, argv: Sequence[str], *, input: bytes | None = None, **_: Any) -> Completed:
        self.ran.append(" ".join(argv))
        if input is not None:
            self.inputs.append(input)
        for start, (status, message) in self.fails.items():
            if self.ran[-1].startswith(start):
                return Completed(b"", message.encode(), status)
        name = argv[1].lstrip("-") if argv[0] in ("lvm", "mdadm", "dmsetup", "cryptsetup") else ""
        return getattr(self, f"_{argv[0]}_{name}".rstrip("_"))(list(argv))  # type: ignore[no-any-return]

    def _blkid(self, argv: list[str]) -> Completed:
        blocks = []
        for node in argv[4:]:
            tags = {"DEVNAME": node, **self.tags.get(node, {})}
            blocks.append("\n".join(f"{key}={value}" for key, value in tags.items()))
        return Completed("\n\n".join(blocks).encode(), b"", 0)

    def _mdadm_assemble(self, argv: list[str]) -> Completed:
        name = argv[4].removeprefix("/dev/")
        self._block(name, [node.removeprefix("/dev/") for node in argv[5:]])
        (self.blocks / name / "md").mkdir()
        (self.blocks / name / "md/array_state").write_text("readonly")
        return Completed(b"", b"", 0)

    def _mdadm_stop(self, argv: list[str]) -> Completed:
        return self._gone(argv[2].removeprefix("/dev/"))

    def _cryptsetup_open(self, argv: list[str]) -> Completed:
        assert argv[-3] == "-", "the key comes on standard input"
        self.mapped(argv[-1], [argv[-2].removeprefix("/dev/")])
        return Completed(b"", b"", 0)

    def _dmsetup_remove(self, argv: list[str]) -> Completed:
        for place in self.blocks.glob("dm-*"):
            if (place / "dm/name").read_text().strip() == argv[-1]:
                return self._gone(place.name)
        return Completed(b"", b"no such device", 1)

    def _gone(self, name: str) -> Completed:
        place = self.blocks / name
        if not place.exists():
            return Completed(b"", b"", 1)
        if os.listdir(place / "holders"):
            return Completed(b"", b"busy", 1)
        for other in self.blocks.glob(f"*/holders/{name}"):
            other.unlink()
        place.rename(self.sys / f"gone-{name}-{len(self.ran)}")
        return Completed(b"", b"", 0)

    def _lvm_vgs(self, argv: list[str]) -> Completed:
        rows = [{"vg_name": name.partition("@")[0], "vg_uuid": "vg-uuid", "vg_missing_pv_count": "0"}
                for name in self.groups]  # fmt: skip
        return Completed(json.dumps({"report": [{"vg": rows}]}).encode(), b"", 0)

    def _lvm_lvs(self, argv: list[str]) -> Completed:
        return Completed(json.dumps({"report": [{"lv": self.groups[argv[-1]]}]}).encode(), b"", 0)

    def _lvm_vgchange(self, argv: list[str]) -> Completed:
        for row in self.groups[argv[-1]]:
            self.mapped(
                f"{argv[-1]}-{row['lv_name']}", self.parts[argv[-1]], TYPE="ext4", UUID=row["lv_name"]
            )
        return Completed(b"", b"", 0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    double = Machine(tmp_path)
    for module in (stack, leftovers, probe):
        monkeypatch.setattr(module, "run", double.run)
    monkeypatch.setattr(stack, "_SYS", double.sys)
    monkeypatch.setattr(leftovers, "_SYS_BLOCK", double.blocks)
    monkeypatch.setattr(probe, "_SYS_BLOCK", double.blocks)
    monkeypatch.setattr(leftovers, "_RECORDS", tmp_path / "records")
    monkeypatch.setattr(probe, "is_block", lambda node: True)
    monkeypatch.setattr(probe, "_table", lambda disk, node: [])
    monkeypatch.setattr("shutil.which", lambda program: f"/sbin/{program}")
    yield double


def left(machine: Machine) -> list[str]:
    """What stands on the disks."""
    return sorted(place.name for place in machine.blocks.iterdir() if place.name[:2] in ("dm", "md"))


def lv(name: str, attr: str = "-wi-------") -> dict[str, str]:
    return {"lv_name": name, "lv_uuid": f"uuid-{name}", "lv_attr": attr}


def steps(machine: Machine) -> list[str]:
    return [line for line in machine.ran if not line.startswith(("blkid", "modprobe"))]


def test_disks_without_layers_need_no_tool(machine: Machine) -> None:
    machine.disk("/dev/vdb", TYPE="ext4", UUID="u")
    with opened({"a": "/dev/vdb"}) as volumes:
        assert [one.filesystem.kind for one in volumes.found] == ["ext4"]
    assert steps(machine) == [] and not (leftovers._RECORDS).exists()


def everything(machine: Machine) -> dict[str, str]:
    """LVM on LUKS on a mirror."""
    for node in ("/dev/vdb", "/dev/vdc"):
        machine.disk(node, TYPE="linux_raid_member", UUID=ARRAY, LABEL="web:0")
    machine.tags["/dev/md127"] = {"TYPE": "crypto_LUKS", "UUID": CONTAINER}
    machine.tags["/dev/dm-0"] = {"TYPE": "LVM2_member", "UUID": "pv"}
    machine.groups["vg0"] = [lv("root"), lv("old", "swi-------"), lv("pool", "twi-------")]
    machine.parts["vg0"] = ["dm-0"]
    return {"a": "/dev/vdb", "b": "/dev/vdc"}


def test_layer_upon_layer_and_down_again(machine: Machine) -> None:
    with opened(everything(machine), {CONTAINER.upper(): KEY}) as volumes:
        named = {one.filesystem.volume: one.filesystem for one in volumes.found if one.filesystem.volume}
        assert list(named) == ["/dev/md/0", f"/dev/mapper/luks-{CONTAINER}", "/dev/vg0/root"]
        assert "/dev/md0" in named["/dev/md/0"].names
        assert "/dev/mapper/vg0-root" in named["/dev/vg0/root"].names
        assert {(one.disk, one.partition) for one in named.values()} == {("a", 0)}
        assert (machine.blocks / "md127/md/array_state").read_text() == "read-auto"
        assert (machine.blocks / "md127/md/sync_action").read_text() == "frozen"
        assert volumes.closed == ()
    assert left(machine) == [] and not list(leftovers._RECORDS.iterdir())
    done = steps(machine)
    starts = ["mdadm --assemble --readonly --config=none /dev/md127 /dev/vdb /dev/vdc", "cryptsetup open"]
    starts += ["lvm vgs", "lvm lvs", "lvm vgchange"]
    assert [line[: len(start)] for line, start in zip(done, starts, strict=False)] == starts
    removed = [line.split()[-1] for line in done[5:]]
    assert removed[-2:] == [f"refloat-{CONTAINER}", "/dev/md127"]
    assert set(removed[:-2]) == {"vg0-root", "vg0-old", "vg0-pool"}
    for line in done:
        if line.startswith("lvm"):
            assert "--devices /dev/dm-0" in line, "LVM sees the guest's own nodes alone"


def test_the_passphrase_is_in_no_argument(machine: Machine) -> None:
    with opened(everything(machine), {CONTAINER: KEY}):
        record = (leftovers._RECORDS / f"{os.getpid()}.json").read_text()
    assert machine.inputs == [KEY.encode()]
    assert not [line for line in machine.ran if "horse" in line] and "horse" not in record


def test_taken_down_whatever_happens_inside(machine: Machine) -> None:
    with pytest.raises(RuntimeError), opened(everything(machine), {CONTAINER: KEY}):
        raise RuntimeError
    assert left(machine) == []


def test_wrong_passphrase(machine: Machine) -> None:
    devices = everything(machine)
    machine.fails["cryptsetup open"] = (2, "No key available with this passphrase.")
    with pytest.raises(Refused, match="opens none of its key slots"), opened(devices, {CONTAINER: KEY}):
        pass
    assert left(machine) == []


def test_what_cannot_be_opened_is_said_and_the_rest_goes_on(machine: Machine) -> None:
    devices = everything(machine)
    machine.disk("/dev/vdd", TYPE="ext4", UUID="x")
    with opened({**devices, "c": "/dev/vdd"}) as volumes:
        assert "there is no passphrase" in volumes.closed[0]
        assert {one.filesystem.kind for one in volumes.found} == {"linux_raid_member", "crypto_LUKS", "ext4"}


def test_incomplete_array(machine: Machine) -> None:
    devices = everything(machine)
    machine.fails["mdadm --assemble"] = (1, "need all 2 to start it")
    with opened(devices) as volumes:
        assert "does not start: need all 2" in volumes.closed[0]
    assert "mdadm --stop /dev/md127" in machine.ran


def test_a_kernel_without_the_device_mapper(machine: Machine) -> None:
    (machine.sys / "class/misc/device-mapper").rmdir()
    machine.fails["modprobe"] = (1, "")
    machine.disk("/dev/vdb", TYPE="LVM2_member", UUID="pv")
    with opened({"a": "/dev/vdb"}) as volumes:
        assert "LVM2_member stays closed: this kernel has no dm_mod" in volumes.closed[0]


def test_two_groups_of_one_name_are_not_activated(machine: Machine) -> None:
    machine.disk("/dev/vdb", TYPE="LVM2_member", UUID="pv")
    machine.groups |= {"vg0@1": [lv("root")], "vg0@2": [lv("root")], "vg1": [lv("data")]}
    machine.parts["vg1"] = ["vdb"]
    with opened({"a": "/dev/vdb"}) as volumes:
        assert any("two volume groups are called vg0" in one for one in volumes.closed)
        assert [one.filesystem.volume for one in volumes.found] == ["", "/dev/vg1/data"]


def test_a_snapshot_that_waits_to_be_merged(machine: Machine) -> None:
    machine.disk("/dev/vdb", TYPE="LVM2_member", UUID="pv")
    machine.groups["vg0"] = [lv("root", "Owi-------")]
    with opened({"a": "/dev/vdb"}) as volumes:
        assert "waits to be merged" in volumes.closed[0]
    assert not [line for line in machine.ran if "vgchange" in line]


def test_disks_that_something_else_uses_are_refused(machine: Machine) -> None:
    machine.disk("/dev/vdb", TYPE="LVM2_member", UUID="pv")
    machine.mapped("other-lv", ["vdb"])
    with pytest.raises(Refused, match="is in use on this machine: dm-0"), opened({"a": "/dev/vdb"}):
        pass
    assert left(machine) == ["dm-0"], "it is not ours"


def test_leftovers_of_a_killed_run(machine: Machine) -> None:
    """Its process is gone, and its record tells on which nodes it built."""
    machine.disk("/dev/vdb", TYPE="LVM2_member", UUID="pv")
    machine.groups["vg0"] = [lv("root")]
    machine.parts["vg0"] = ["vdb"]
    machine.mapped("vg0-root", [machine.mapped("refloat-x", ["vdb"])])
    leftovers._RECORDS.mkdir()
    record = leftovers._RECORDS / "1.json"
    record.write_text(json.dumps({"owner": "1:0", "nodes": ["/dev/vdb"], "loops": []}))
    with opened({"a": "/dev/vdb"}) as volumes:
        assert len(volumes.found) == 2
    removed = [line.split()[-1] for line in machine.ran if line.startswith("dmsetup")]
    assert removed == ["vg0-root", "refloat-x", "vg0-root"]
    assert not record.exists()


def test_what_a_living_run_built_stays(machine: Machine) -> None:
    machine.disk("/dev/vdb")
    machine.mapped("refloat-x", ["vdb"])
    leftovers._RECORDS.mkdir()
    owner = leftovers.birth(os.getpid())
    (leftovers._RECORDS / "1.json").write_text(
        json.dumps({"owner": owner, "nodes": ["/dev/vdb"], "loops": []})
    )
    leftovers.drop()
    assert left(machine) == ["dm-0"]


def test_busy_volumes_are_an_error_and_stay_on_record(machine: Machine) -> None:
    with (
        pytest.raises(Failed, match="cannot take down /dev/dm-"),
        opened(everything(machine), {CONTAINER: KEY}),
    ):
        machine.fails["dmsetup remove --retry vg0-root"] = (1, "Device or resource busy")
    assert list(leftovers._RECORDS.iterdir())


def test_btrfs_on_two_disks_is_one_filesystem(machine: Machine) -> None:
    machine.disk("/dev/vdb", TYPE="btrfs", UUID="u", UUID_SUB="1")
    machine.disk("/dev/vdc", TYPE="btrfs", UUID="u", UUID_SUB="2")
    with opened({"a": "/dev/vdb", "b": "/dev/vdc"}) as volumes:
        first, second = volumes.found
    assert first.members == ("/dev/vdc",)
    assert (second.filesystem.kind, second.filesystem.uuid) == ("btrfs_member", "")


def test_copies_of_a_btrfs_stay_two(machine: Machine) -> None:
    for node in ("/dev/vdb", "/dev/vdc"):
        machine.disk(node, TYPE="btrfs", UUID="u", UUID_SUB="1")
    with opened({"a": "/dev/vdb", "b": "/dev/vdc"}) as volumes:
        assert [one.members for one in volumes.found] == [(), ()]
