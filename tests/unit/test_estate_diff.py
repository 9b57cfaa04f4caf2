"""What another estate would change, without its secrets; what has to wait, because something relies on it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from refloat.estate import Estate
from refloat.estate.diff import HIDDEN, LONGEST, FieldChange, What, differences, new_reach
from refloat.estate.uses import Use, blocked

CONTROLLER = {"vm": "c", "address": "192.0.2.2", "identity": "/key", "host_key": "ssh-ed25519 A"}
PROVISION = {"image": "/i.raw", "network": "lan", "storage": "pool", "options": {"zone": "z1"}}
BASE: dict[str, Any] = {
    "version": 1,
    "sites": {
        "dc": {"platform": "vsphere", "server": "vc", "user": "u", "password": {"file": "/etc/vc"}},
        "cloud": {
            "platform": "cloudstack",
            "url": "https://cloud.example/client/api",
            "key": {"env": "KEY"},
            "secret": {"sealed": "cloud"},
        },
        "kvm": {
            "platform": "libvirt",
            "uri": "qemu:///system",
            "networks": {"lan": {"kind": "bridge", "name": "b"}},
        },
    },
    "mappings": [{"from": "prod", "to": "lan", "test": "lan"}],
    "policies": {"gold": {"probes": [{"port": 22}]}},
    "protected": {"web": {"site": "dc", "vm": "web", "policy": "gold"}, "db": {"site": "dc", "vm": "db"}},
    "targets": {
        "web": {"protected": "web", "site": "kvm", "controller": CONTROLLER, "disks": {"sda": "w"}},
        "db": {"protected": "db", "site": "kvm", "provision": PROVISION},
    },
}


def changed(*path: Any, to: Any) -> Estate:
    data = deepcopy(BASE)
    place = data
    for part in path[:-1]:
        place = place[part]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return Estate.model_validate(data)


OLD = Estate.model_validate(BASE)


@pytest.mark.parametrize(
    ("path", "value", "kind", "name", "field"),
    [
        (("policies", "gold", "mac"), "new", "policy", "gold", FieldChange("mac", "keep", "new")),
        (
            ("policies", "gold", "probes", 0, "port"),
            23,
            "policy",
            "gold",
            FieldChange("probes.0.port", "22", "23"),
        ),
        (("policies", "gold", "rpo"), 60, "policy", "gold", FieldChange("rpo", "", "60")),
        (
            ("policies", "gold", "serial_console"),
            True,
            "policy",
            "gold",
            FieldChange("serial_console", "false", "true"),
        ),
        (
            ("policies", "gold", "second_person"),
            ["commit"],
            "policy",
            "gold",
            FieldChange("second_person", "", "commit"),
        ),
        (("mappings", 0, "to"), "other", "mapping", "prod", FieldChange("to", "lan", "other")),
        (("targets", "web", "disks", "sdb"), "x", "target", "web", FieldChange("disks.sdb", "", "x")),
        (
            ("protected", "web", "policy"),
            "default",
            "protected",
            "web",
            FieldChange("policy", "gold", "default"),
        ),
        (
            ("sites", "dc", "password"),
            {"file": "/new"},
            "site",
            "dc",
            FieldChange("password.file", "/etc/vc", "/new"),
        ),
    ],
)
def test_a_changed_field(path: tuple[Any, ...], value: Any, kind: str, name: str, field: FieldChange) -> None:
    (change,) = differences(OLD, changed(*path, to=value))
    assert (change.what, change.kind, change.name, change.fields) == (What.CHANGED, kind, name, (field,))
    assert differences(OLD, OLD) == ()


def test_what_is_added_is_told_and_what_is_removed_is_named() -> None:
    new = changed("targets", "web", to=None)
    (change,) = differences(OLD, new)
    assert (change.what, change.kind, change.name, change.fields) == (What.REMOVED, "target", "web", ())
    (change,) = differences(new, OLD)
    told = {one.field: one.new for one in change.fields}
    assert (
        change.what is What.ADDED and told["controller.address"] == "192.0.2.2" and told["disks.sda"] == "w"
    )
    assert "controller.port" not in told, "what nobody wrote is not told"


def test_the_same_written_otherwise_is_the_same() -> None:
    data = deepcopy(BASE)
    data["policies"]["gold"].update(mac="keep", shutdown_deadline=180)
    data["targets"] = dict(reversed(data["targets"].items()))
    data["protected"]["db"]["policy"] = "default"
    assert differences(OLD, Estate.model_validate(data)) == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("targets", "db", "provision", "options", "admin_password"), "hunter2-marker"),
        (("targets", "db", "provision", "options", "apiKey"), "hunter2-marker"),
        (("sites", "kvm", "uri"), "qemu+tcp://root:hunter2-marker@kvm2/system"),
        (("policies", "gold", "probes", 0), {"kind": "command", "command": ["/x", "--token=hunter2-marker"]}),
        (("sites", "dc", "reader"), ["/r", "password=hunter2-marker", "{socket}"]),
    ],
)
def test_no_secret_is_shown(path: tuple[Any, ...], value: Any) -> None:
    """An estate should hold none; where one was written all the same, that it changed is all that is told."""
    new = changed(*path, to=value)
    assert "hunter2-marker" in new.model_dump_json()
    for told in (differences(OLD, new), differences(new, OLD)):
        assert told and "hunter2" not in repr(told) and HIDDEN in repr(told)


def test_two_secrets_are_told_apart_without_being_shown() -> None:
    place = ("targets", "db", "provision", "options", "password")
    (change,) = differences(changed(*place, to="one"), changed(*place, to="two"))
    assert change.fields == (FieldChange("provision.options.password", HIDDEN, HIDDEN),)


def test_a_long_value_is_cut() -> None:
    (change,) = differences(OLD, changed("policies", "gold", "probes", 0, "expect", to="x" * 4000))
    assert len(change.fields[0].new) < LONGEST + 30 and "4000" in change.fields[0].new


# ---------------------------------------------------------------- what has to wait

JOB = Use(
    "job web-1 (test_active)",
    "roll it back first",
    frozenset({("target", "web"), ("protected", "web"), ("site", "dc"), ("site", "kvm")}),
    frozenset({"prod"}),
)
NEW_NETWORK = {"lan": {"kind": "bridge", "name": "b"}, "lab": {"kind": "user", "subnet": "10.0.0.0/24"}}
OTHER_MAPPINGS = [*BASE["mappings"], {"from": "dmz", "to": "lan", "test": "lan"}]


@pytest.mark.parametrize(
    ("path", "value", "waits"),
    [
        (("targets", "web"), None, True),
        (("targets", "web", "disks", "sdb"), "x", True),
        (("targets", "db"), None, False),
        (("protected", "web", "vm"), "other", True),
        (("protected", "db", "vm"), "other", False),
        (("sites", "dc", "server"), "other", True),
        (("sites", "cloud", "timeout"), 5, False),
        (("sites", "kvm", "networks"), NEW_NETWORK, False),
        (("sites", "kvm", "networks", "lan", "isolated"), True, True),
        (("sites", "kvm", "networks"), {}, True),
        (("mappings",), [], True),
        (("mappings", 0, "test"), "other", True),
        (("mappings",), OTHER_MAPPINGS, False),
        (("policies", "gold", "mac"), "new", False),  # a job keeps the policy that it began with
    ],
)
def test_what_a_job_relies_on_waits_for_its_end(path: tuple[Any, ...], value: Any, waits: bool) -> None:
    changes = differences(OLD, changed(*path, to=value))
    found = blocked(changes, [JOB], OLD)
    assert bool(found) == waits and changes
    assert all("job web-1 (test_active): roll it back first" in line for line in found)


def test_a_mapping_that_is_new_changes_where_a_jobs_adapter_leads() -> None:
    changes = differences(changed("mappings", to=[]), OLD)
    assert blocked(changes, [JOB], OLD)
    unknown = Use("job", "wait", frozenset(), networks=None)
    assert blocked(changes, [unknown], OLD), "a job whose VM's networks are not known relies on every mapping"
    assert not blocked(changes, [Use("sync", "wait", frozenset())], OLD)


# ---------------------------------------------------------------- what reaches out of the estate

PROBE = {"kind": "command", "command": ["/usr/local/bin/check", "{address}"]}


@pytest.mark.parametrize(
    ("path", "value", "reach"),
    [
        (("policies", "gold", "probes", 0), PROBE, "/usr/local/bin/check {address}"),
        (("sites", "dc", "reader"), ["/bin/reader", "{socket}"], "/bin/reader {socket}"),
        (("sites", "dc", "password"), {"file": "/etc/shadow"}, "/etc/shadow"),
        (("sites", "dc", "password"), {"env": "OTHER"}, "OTHER"),
        (("sites", "dc", "server"), "elsewhere", "vsphere://elsewhere:443"),
        (("sites", "kvm", "uri"), "qemu+ext:///s?command=/tmp/x", "qemu+ext:///s?command=/tmp/x"),
        (("targets", "web", "controller", "identity"), "/other", "/other"),
        (("targets", "db", "provision", "image"), "/etc/shadow", "/etc/shadow"),
        (
            ("policies", "gold", "probes", 0),
            {"kind": "http", "path": "/health", "headers": {"X": "/etc/shadow"}},
            "/etc/shadow",
        ),
    ],
)
def test_what_is_new_on_the_hubs_machine(path: tuple[Any, ...], value: Any, reach: str) -> None:
    new = changed(*path, to=value)
    assert new_reach(OLD, new) == (reach,)
    assert new_reach(new, new) == ()


def test_who_is_shown_a_file_that_is_known() -> None:
    probe = {"kind": "http", "headers": {"Authorization": "/etc/vc"}}
    planned = changed("policies", "gold", "probes", 0, to=probe)
    assert new_reach(OLD, planned) == (), "the VM itself, with a file that was named before"
    elsewhere = changed("policies", "gold", "probes", 0, to={**probe, "address": "192.0.2.9"})
    assert new_reach(planned, elsewhere) == ("192.0.2.9 is shown /etc/vc",)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("policies", "gold", "probes", 0), {"kind": "http", "path": "/health"}),
        (("policies", "gold", "rpo"), 60),
        (("targets", "web", "disks", "sdb"), "x"),
        (("sites", "cloud", "secret"), {"file": "/etc/vc"}),  # named before, by another site
        (("targets", "db"), None),
    ],
)
def test_what_is_not(path: tuple[Any, ...], value: Any) -> None:
    assert new_reach(OLD, changed(*path, to=value)) == ()
