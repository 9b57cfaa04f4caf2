"""What the API's document shows beside its schemas: an example of each, and the codes of refusals."""

from __future__ import annotations

from typing import Any

_AT = "2026-03-01T10:00:00.000+00:00"
_POINT = {
    "id": "20260301T100000Z-52aa15",
    "taken": _AT,
    "checkpoint": "refloat-20260301T100000Z",
    "how": "changed",
    "transferred": 48234496,
    "reason": "",
}
_DECISION = {"action": "adapt", "reasons": ["disks move from pvscsi to virtio-blk"]}
_TARGET = {
    "name": "web",
    "state": "ready",
    "holder": "",
    "message": "",
    "sync_point": _POINT,
    "progress": None,
    "paused": False,
    "readiness": {
        "at": _AT,
        "point": _POINT["id"],
        "ready": True,
        "reasons": _DECISION["reasons"],
        "warnings": [],
    },
    "health": {"at": _AT, "state": "ok", "text": "answers, up for 3 h 05 min, 5.4 GiB free", "hint": ""},
    "replication": {"age": 61.0, "rpo": 300, "late": False, "next_sync": 239.0},
}
_JOB = {
    "id": "web-05a219",
    "target": "web",
    "mode": "test",
    "state": "test_active",
    "created": _AT,
    "finished": "",
    "abort_requested": False,
    "error": None,
}
_STEP = {
    "step": "preflight",
    "phase": "do",
    "started": _AT,
    "finished": "2026-03-01T10:00:04.000+00:00",
    "attempts": 1,
    "error": None,
    "history": [
        {"number": 1, "started": _AT, "finished": "2026-03-01T10:00:04.000+00:00", "error": None},
    ],
}
_FACET = {
    "name": "boot",
    "state": "verified",
    "required": True,
    "proofs": [{"observer": "platform", "holds": True, "text": "the VM is running (started)"}],
}
_USER = {"name": "anna", "role": "operator", "disabled": False, "has_password": True, "created": _AT}
_TOKEN = {
    "id": "c2f7c7da709c",
    "owner": "anna",
    "label": "monitoring",
    "role": "operator",
    "scopes": ["look"],
    "created": _AT,
    "expires": "2026-05-30T10:00:00.000+00:00",
    "used": "",
    "revoked": "",
}
_ENTRY = {
    "id": 18,
    "at": _AT,
    "who": "anna",
    "origin": "192.0.2.10",
    "what": "rollback",
    "subject": _JOB["id"],
    "reason": "this was a drill",
    "data": {},
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_ADAPTER = {
    "source_mac": "00:50:56:aa:bb:cc",
    "mac": "00:50:56:aa:bb:cc",
    "network": "bubble",
    "mode": "restore",
    "addresses": ["10.20.30.40/24"],
    "gateway": "10.20.30.2",
    "dns": ["10.20.30.3"],
    "reason": "ens192 is static with 10.20.30.40/24 (its slot gives it the name ens192)",
}
_VERSION = {
    "number": 3,
    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "at": _AT,
    "who": "anna",
    "reason": "web is gold now",
}
_ESTATE_TEXT = "version: 1\nsites: {}\nprotected: {}\ntargets: {}\n"
_ESTATE_CHANGE = {
    "what": "changed",
    "kind": "protected",
    "name": "web",
    "fields": [{"field": "policy", "old": "silver", "new": "gold"}],
}
_FSTAB = {
    "path": "/etc/fstab",
    "kind": "file",
    "new": False,
    "size": 612,
    "reason": "/dev/sda1 changes with the disk bus: named by its UUID",
    "values": [],
}
_PLAN = {
    "target": "web",
    "mode": "test",
    "at": _AT,
    "point": _POINT["id"],
    "decision": _DECISION,
    "guest": {"os_name": "Debian GNU/Linux 12 (bookworm)", "hostname": "web", "architecture": "x86_64"},
    "machine": {
        "cpus": 2,
        "memory": 1073741824,
        "firmware": "bios",
        "disk_bus": "virtio-blk",
        "nic_model": "virtio-net",
    },
    "disks": [{"key": "sda", "serial": "replica-sda", "capacity": 2147483648}],
    "adapters": [_ADAPTER],
    "in_guest": {"at": _AT, "changes": [_FSTAB], "more": 0, "trouble": ""},
    "warnings": [],
    "needs": ["disks: 1, attached in this order, their filesystems mounted"],
}

# By the name of the schema.
EXAMPLES: dict[str, dict[str, Any]] = {
    "AuditPage": {"entries": [_ENTRY], "next": 0},
    "DecisionIn": {"reason": "this was a drill", "discard_writes": True},
    "EstateAppliedOut": {"number": 3, "changes": [_ESTATE_CHANGE]},
    "EstateDiffOut": {
        "base": 2,
        "changes": [_ESTATE_CHANGE],
        "blocked": ["protected web is used by job web-05a219 (test_active): roll it back first"],
        "reach": ["/etc/refloat/web-controller-key"],
    },
    "EstateIn": {"text": _ESTATE_TEXT, "name": "estate.yaml"},
    "EstateOut": {**_VERSION, "text": _ESTATE_TEXT},
    "EstateVersionsOut": {"versions": [_VERSION], "next": 0},
    "EventsOut": {
        "events": [{"id": 7, "job": _JOB["id"], "at": _AT, "kind": "state", "data": {"state": "running"}}],
        "next": 7,
    },
    "ChannelOut": {
        "name": "ops",
        "kind": "webhook",
        "where": "https://alerts.example",
        "events": ["job.failed", "job.verdict_failed"],
        "waiting": 1,
        "delivered": 17,
        "given_up": 0,
        "oldest_waiting": _AT,
        "last_delivered": _AT,
        "last_error": "https://alerts.example: Connection refused",
    },
    "DeliveryOut": {"delivered": True, "answer": "200 OK", "hint": ""},
    "FailoverIn": {"mode": "test"},
    "Health": {"status": "ok", "version": "0.1.0"},
    "IssuedOut": {**_TOKEN, "token": "rfl_c2f7c7da709c_shown-this-once"},
    "JobDetail": {
        **_JOB,
        "steps": [_STEP],
        "decision": _DECISION,
        "verdict": {"word": "succeeded", "reasons": ["every facet was verified"], "facets": [_FACET]},
        "remediation": {"at": _AT, "status": "succeeded", "why": "report 2 of the guest"},
        "console": [
            {
                "state": "login",
                "words": "web login:",
                "at": _AT,
                "where": "screen",
                "picture": "0007-login.png",
            }
        ],
    },
    "JobOut": _JOB,
    "JobsOut": {"jobs": [_JOB], "next": ""},
    "NewEstateIn": {"text": _ESTATE_TEXT, "name": "estate.yaml", "base": 2, "reason": _VERSION["reason"]},
    "MeOut": {"name": "anna", "role": "operator", "may": ["look", "replicate", "failover", "decide"]},
    "PlanOut": _PLAN,
    "Problem": {
        "code": "target_busy",
        "message": "target web is busy with web-05a219",
        "hint": "wait for its end, or roll it back",
    },
    "Ready": {"ready": True},
    "SecretIn": {"value": "the key of the recovery site"},
    "SecretOut": {"name": "cloud-key", "changed": _AT, "who": "anna", "used_by": ["recovery"]},
    "SyncIn": {"full": False},
    "TargetOut": _TARGET,
    "TargetsOut": {"targets": [_TARGET], "next": ""},
    "TokenIn": {"label": "monitoring", "days": 90, "scopes": ["look"]},
    "TokenOut": _TOKEN,
    "UserChange": {"role": "viewer"},
    "UserIn": {"name": "anna", "role": "operator", "password": "a long enough sentence"},
    "UserOut": _USER,
    "VerifiedOut": {"entries": 18, "head": _ENTRY["sha256"]},
}

# Codes that a program may want to tell apart. Others may come: the HTTP status always says which kind it is.
CODES = {
    "unauthorised": "401: no token, a wrong one, or one whose time is over",
    "forbidden": "403: the role or the scopes do not allow it",
    "hub_token_needed": "403: new programs or files of the hub's machine need the hub's own token",
    "csrf": "403: a session's request without its page's secret",
    "unknown_target": "404: the estate file has no such target",
    "unknown_job": "404: there is no such job",
    "unknown_user": "404: there is no such user",
    "unknown_token": "404: there is no such token",
    "unknown_secret": "404: there is no such sealed secret",
    "unknown_version": "404: the estate has no such version",
    "unknown_channel": "404: the settings name no such channel",
    "no_plan": "404: no sync has looked into the replica yet",
    "target_busy": "409: another job or sync holds the target",
    "target_not_ready": "409: the target has no complete sync point, or its last sync failed",
    "paused": "409: replication of the target is paused",
    "failed_over": "409: the replica is the live VM now",
    "illegal_state": "409: the job is in a state in which this cannot be decided",
    "writes_not_acknowledged": "409: going back would discard what the recovered VM wrote; say so",
    "second_person": "409: somebody else has to say the same",
    "secret_in_use": "409: the estate names the secret",
    "estate_changed": "409: another estate was applied since this one was compared",
    "estate_in_use": "409: a job, a sync or a controller relies on what would change",
    "override_unused": "409: a word on the source is for emergencies",
    "network_unmapped": "409: the estate file leads an adapter nowhere in this mode",
    "not_started": "409: nothing was changed; the hub's log says why",
    "bad_estate": "422: the text is no estate; the message has a line for each thing that is wrong",
    "bad_input": "422: the request does not fit the schema",
    "too_large": "413: the request's body is too large",
    "internal": "500: a defect; the hub's log has the number that the message names",
}


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """The document with an example in each schema that has one."""
    schemas = document["components"]["schemas"]
    for name in schemas.keys() & EXAMPLES.keys():
        schemas[name]["examples"] = [EXAMPLES[name]]
    return document


def codes_in_words() -> str:
    return "\n".join(f"- `{code}`: {meaning}" for code, meaning in CODES.items())
