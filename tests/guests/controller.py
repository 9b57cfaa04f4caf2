"""Work that needs device-mapper or vfat, done where the product does it: in the lab's controller VM.

The controller boots from a copy of its image with the engine, the job and the guest's disks beside its own;
what the job prints comes back over a virtio port, and the VM ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from refloat.codec import decode, encode
from refloat.command import run
from refloat.lab.images import InjectedFile, controller_image, personalise
from tests.guests.adaptation import Adapted, Order
from tests.guests.machine import machine

_ROOT = Path(__file__).parents[2]
_CODE = ("refloat/*.py", "refloat/guest/**/*", "refloat/model/*.py", "tests/*.py", "tests/guests/*.py")
_WITHIN = 900.0  # seconds
_PORT = "/dev/virtio-ports/org.refloat.job"
_END = b"\nJOB "  # and the job's exit status

_UNIT = f"""\
[Unit]
Description=The test's job
After=multi-user.target

[Service]
Type=oneshot
StandardOutput=file:{_PORT}
StandardError=file:/dev/ttyS0
ExecStart=/bin/sh -c 'cd /opt/job && sh job.sh; printf "\\\\nJOB %%s\\\\n" $?; sync'
"""


def in_controller(directory: Path, job: str, disks: Mapping[str, Path], files: Mapping[str, bytes]) -> bytes:
    """What the shell script `job` prints in a controller. `disks` are raw images, by the serial under which
    they are found there (/dev/disk/by-id/virtio-SERIAL); `files` lie in the job's directory."""
    system = directory / "controller.raw"
    run(["cp", "--sparse=always", str(controller_image(lambda text: None)), str(system)])
    content = {
        "/etc/systemd/system/guest-job.service": InjectedFile(_UNIT.encode()),
        "/etc/systemd/system/multi-user.target.d/job.conf": InjectedFile(
            b"[Unit]\nWants=guest-job.service\n"
        ),
        "/opt/job/job.sh": InjectedFile(job.encode()),
    }
    content |= {f"/opt/job/{name}": InjectedFile(data) for name, data in files.items()}
    personalise(system, content)
    argv = ["-device", "virtio-blk-pci,drive=own,bootindex=0"]
    argv += ["-drive", f"if=none,id=own,file={system},format=raw,cache=unsafe"]
    for number, (serial, path) in enumerate(disks.items()):
        argv += ["-drive", f"if=none,id=d{number},file={path},format=raw,cache=unsafe"]
        argv += ["-device", f"virtio-blk-pci,drive=d{number},serial={serial}"]
    argv += ["-device", "virtio-serial-pci,max_ports=4"]
    argv += ["-chardev", f"socket,id=job,path={directory}/job.sock,server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=job,name=org.refloat.job"]
    said = bytearray()
    with machine(directory, argv, ("job",)) as running:
        running.wait(lambda: said.endswith(b"\n") and _END in said, _WITHIN, said.extend)
        output, _, status = bytes(said).rpartition(_END)
        assert status.strip() == b"0", (output[-3000:], running.console[-3000:])
    system.unlink()
    return output


def adapted_there(order: Order, disk: Path, directory: Path) -> Adapted:
    """As adaptation.adapted(), on the controller's kernel."""
    code = {
        str(path.relative_to(_ROOT)): path.read_bytes()
        for pattern in _CODE
        for path in _ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    order_file = json.dumps(encode(order)).encode()
    job = "python3 -m tests.guests.adaptation /dev/disk/by-id/virtio-guest /run/adaptation <order.json\n"
    said = in_controller(directory, job, {"guest": disk}, {**code, "order.json": order_file})
    return decode(Adapted, json.loads(said))
