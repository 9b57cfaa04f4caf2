"""`refloat-controller` as the zipapp that is pushed, without site and environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from refloat.codec import encode
from refloat.controller import zipapp
from refloat.controller.attempts import prove_closed
from refloat.controller.devices import holders
from refloat.controller.paths import Paths
from refloat.controller.state import load_state, save_state
from refloat.errors import Failed
from refloat.model import AdaptRequest, DiskBus, NicModel, Secrets
from tests.unit.builders import FACTS
from tests.unit.sync.rig import LocalLink

MIB = 1 << 20


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("code") / "x.pyz"
    file.write_bytes(zipapp.controller_code().content)
    return file


def call(
    code: Path, machine: LocalLink, *arguments: str, content: bytes = b""
) -> tuple[list[dict[str, Any]], int]:
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", code, *arguments],
        input=content,
        capture_output=True,
        env={**os.environ, **machine.environment},
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def test_zipapp_is_deterministic_and_named_by_its_content() -> None:
    first = zipapp.controller_code()
    zipapp.controller_code.cache_clear()
    second = zipapp.controller_code()
    assert first == second and hashlib.sha256(first.content).hexdigest() == first.sha256


def test_zipapp_holds_bytecode_and_data_and_nothing_of_the_hub(code: Path) -> None:
    names = set(zipfile.ZipFile(code).namelist())
    assert {"__main__.py", "refloat/model/__init__.pyc", "refloat/guest/journal.pyc"} <= names
    assert {name for name in names if name.endswith((".sh", ".service"))}
    assert not {name for name in names if "/client" in name or "/sync/nbd" in name or "__pycache__" in name}


def test_nothing_but_the_standard_library_is_imported(code: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pkgutil; sys.path.insert(0, sys.argv[1]); import refloat.controller as c\n"
        "import refloat.guest as g, importlib\n"
        "for package in (c, g):\n"
        "    for one in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(one.name)\n"
        "print(len(sys.modules))\n"
    )
    argv = ["/usr/bin/python3", "-I", "-S", "-c", program, str(code)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_health_needs_few_imports(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-X", "importtime", code, "health"],
        capture_output=True,
        text=True,
        env={**os.environ, **machine.environment},
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"subprocess", "dataclasses", "logging", "argparse", "inspect"}
    assert json.loads(done.stdout)["data"]["merged_point"] is None


def test_events_end_with_one_result_or_error(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": 130 * MIB})
    events, status = call(code, machine, "disks", "--hash")
    assert status == 0 and [one["event"] for one in events] == ["progress", "progress", "result"]
    for bad in (["x"], [], ["sync"], ["sync", "open", "p", "--direct", "ra"], ["sync", "open", "p", "ra=1"]):
        events, status = call(code, machine, *bad)
        assert status == 1 and [one["event"] for one in events] == ["error"]
        assert events[0]["code"] == "usage" and events[0]["hint"]


def test_bad_requests_on_standard_input(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    for command in ("inspect", "plan", "adapt"):
        for content in (b"", b"[]", b"{}", b'{"request": {}, "facts": {}}'):
            events, _ = call(code, machine, command, content=content)
            assert events[-1]["code"] == "bad_request"


def test_a_replica_of_another_size_is_refused(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    events, _ = call(code, machine, "sync", "open", "p", "--direct", f"ra={2 * MIB}")
    assert events[-1]["code"] == "disk_size"
    assert call(code, machine, "sync", "status")[0][-1]["data"]["attempt"] == ""


def test_direct_writes_only_before_the_first_complete_point(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    assert call(code, machine, "sync", "open", "p1", "--direct", f"ra={MIB}")[1] == 0
    events, _ = call(code, machine, "sync", "complete", "p2")
    assert events[-1]["code"] == "no_attempt"
    for _ in range(2):
        events, status = call(code, machine, "sync", "complete", "p1")
        assert status == 0 and events[-1]["data"]["merged_point"] == "p1"
    events, _ = call(code, machine, "sync", "open", "p2", "--direct", f"ra={MIB}")
    assert events[-1]["code"] == "replica_complete"


def test_no_adaptation_while_a_sync_is_open(code: Path, tmp_path: Path) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    request = AdaptRequest("j", (), DiskBus.VIRTIO_BLK, NicModel.VIRTIO, (), Secrets("t", "n"), "channel", 1)
    content = json.dumps({"request": encode(request), "facts": encode(FACTS)}).encode()
    call(code, machine, "sync", "open", "p1", "--direct", f"ra={MIB}")
    try:
        assert call(code, machine, "adapt", content=content)[0][-1]["code"] == "busy"
    finally:
        call(code, machine, "sync", "close")


def test_stop_proves_that_nobody_holds_the_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = LocalLink(tmp_path, {"ra": MIB})
    paths = Paths(str(machine.root), str(machine.root / "sys"), str(machine.root / "dev"))
    monkeypatch.setattr("refloat.controller.attempts._SETTLE", 0)
    prove_closed(paths, ["ra"])
    device = machine.root / "dev" / "vdb"
    with device.open("rb"):
        assert holders(str(device)) == [f"process {os.getpid()}"]
        prove_closed(paths, [])  # no sync yet, so nothing that is known to be a replica
        save_state(paths, {**load_state(paths), "serials": ["ra"]})
        with pytest.raises(Failed) as caught:
            prove_closed(paths, [])
    assert caught.value.code == "replica_in_use"
