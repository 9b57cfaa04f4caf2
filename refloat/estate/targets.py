"""Protected VMs and their replication targets."""

from __future__ import annotations

from pathlib import Path

from refloat.estate.forms import Form, Name


class Protected(Form):
    site: Name
    vm: str
    policy: Name = "default"


class Controller(Form):
    """`address` is the controller's on its management network; `identity` the file of the private key."""

    vm: str
    address: str
    port: int = 22
    user: str = "root"
    identity: Path
    host_key: str


class TargetForm(Form):
    protected: Name
    site: Name
    controller: Controller
    disks: dict[str, str]  # source disk -> serial of the replica disk
