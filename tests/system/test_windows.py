"""A phony Windows disk in a real controller VM: the commands that the hub calls there, on the controller's
own kernel, ntfs-3g and hivex. Its UEFI system has an EFI partition, which needs the kernel's vfat."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from refloat import drivers
from refloat.codec import decode, encode
from refloat.controller.zipapp import controller_code
from refloat.model import (
    Adaptation,
    AdaptRequest,
    DiskBus,
    Firmware,
    NetworkMode,
    NicModel,
    PlannedDisk,
    PlannedNic,
    Secrets,
    WindowsRequest,
)
from tests.guests.controller import in_controller
from tests.windows import disks, driverset
from tests.windows.engine import staged_secrets

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: disks are made and mounted"),
    pytest.mark.skipif(bool(disks.can_be_made()), reason=disks.can_be_made() or "-"),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]

ONE = disks.Phony("2022", Firmware.UEFI)
SECRETS = Secrets("t" * 48, "n" * 32)

# As the hub does it: whether the drivers are there, then they are, facts, adaptation, and that once more.
_CALLS = """
import json, os, shutil, subprocess

def call(command, request):
    argv = ["python3", "-I", "-S", "code.pyz", command]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True)
    last = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"event": done.stderr}
    assert last["event"] == "result", last
    return last["data"]

order = json.load(open("order.json"))
asked = call("drivers", {"files": order["files"], "archive": ""})
assert asked["folder"] == "", asked
shutil.copy("drivers.zip", os.path.join(asked["incoming"], order["archive"] + ".zip"))
folder = call("drivers", {"files": order["files"], "archive": order["archive"]})["folder"]
facts = call("inspect", order["inspect"])
request = order["request"]
request["windows"]["drivers_dir"] = folder
request["nics"][0]["config"] = facts["nics"][0]
first = call("adapt", {"request": request, "facts": facts})
again = call("adapt", {"request": request, "facts": facts})
assert first == again, "a second call gets the result of the first"
print(json.dumps(first))
"""


def test_a_windows_disk_is_adapted_in_a_controller(tmp_path: Path) -> None:
    disk = disks.make(ONE, tmp_path / "system.raw")
    driver_set = driverset.write_folder(tmp_path / "virtio-win", driverset.files(["2k22"]))
    choice = drivers.choose(driver_set, "2022", "amd64")
    drivers.extract(driver_set, choice, "2022", tmp_path / "chosen")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for file in choice.files:
            packed.writestr(file.path, (tmp_path / "chosen" / file.path).read_bytes())
    planned = PlannedDisk("sda", "sda", "rf-sda", disk.stat().st_size)
    nic = PlannedNic(disks.MAC, disks.MAC, "production", NetworkMode.RESTORE, None, "static")
    request = AdaptRequest(
        job="windows-1",
        disks=(planned,),
        disk_bus=DiskBus.VIRTIO_BLK,
        nic_model=NicModel.VIRTIO,
        nics=(nic,),
        secrets=SECRETS,
        channel="org.refloat.report",
        report_deadline=1800,
        windows=WindowsRequest(choice, ""),
    )
    order = {
        "files": encode(choice.files),
        "archive": hashlib.sha256(archive.getvalue()).hexdigest(),
        "inspect": {"disks": [encode(planned)], "bus": request.disk_bus, "nic": request.nic_model},
        "request": encode(request),
    }
    files = {
        "code.pyz": controller_code().content,
        "calls.py": _CALLS.encode(),
        "order.json": json.dumps(order).encode(),
        "drivers.zip": archive.getvalue(),
    }
    said = in_controller(tmp_path, "python3 calls.py\n", {"rf-sda": disk}, files)
    done = decode(Adaptation, json.loads(said))
    changed = {change.path for change in done.changes}
    assert "/C/Windows/System32/config/SYSTEM" in changed
    assert "/C/Windows/System32/drivers/viostor.sys" in changed
    assert {path for path in changed if path.startswith("/ESP/")}, "the fallback loader"
    assert (done.caps.reporter, done.caps.clock_utc) == (True, False)
    assert staged_secrets(ONE, disk) == {"TOKEN": SECRETS.token, "NONCE": SECRETS.nonce}
