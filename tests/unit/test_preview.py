"""What a failover would do: for each mode, bounded, and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.codec import encode
from refloat.errors import NotFound, Refused
from refloat.guest.intended import LONGEST, MOST, MOST_VALUES, intended
from refloat.model import Action, Change, ChangeKind, Decision, FileState, Mode, Preview, ValueChange
from refloat.policy import MacPolicy, Policy, Probe
from refloat.preview import kept, needs, plan_ahead
from refloat.run import Networks
from tests.unit.builders import MAC, PLAN

NETWORKS = Networks({"user": "production"}, {"user": "bubble"})
KNOWN = Preview("2026-03-01T10:00:00+00:00", "sp-1", PLAN)


def change(path: str, *values: ValueChange) -> Change:
    return Change(1, path, ChangeKind.FILE, None, FileState(size=7), "because", values=values)


def test_each_mode_has_its_networks() -> None:
    test = plan_ahead("web", KNOWN, Mode.TEST, NETWORKS, Policy())
    live = plan_ahead("web", KNOWN, Mode.EMERGENCY, NETWORKS, Policy())
    assert [one.network for one in (*test.nics, *live.nics)] == ["bubble", "production"]
    assert [one.mac for one in live.nics] == [MAC]


def test_a_mac_that_is_chosen_at_the_start_is_not_promised() -> None:
    ahead = plan_ahead("web", KNOWN, Mode.PLANNED, NETWORKS, Policy(mac=MacPolicy.NEW))
    assert [one.mac for one in ahead.nics] == [""]


def test_what_is_not_known_is_said_with_what_to_do() -> None:
    with pytest.raises(NotFound) as caught:
        plan_ahead("web", None, Mode.TEST, NETWORKS, Policy())
    assert caught.value.code == "no_plan" and "sync" in caught.value.hint
    with pytest.raises(Refused, match="mapped to none for a test failover"):
        plan_ahead("web", KNOWN, Mode.TEST, Networks({"user": "production"}, {}), Policy())


def test_what_the_verdict_needs() -> None:
    policy = Policy(probes=(Probe(port=443, name="shop"), Probe(port=22, required=False)))
    live = needs(PLAN, Mode.PLANNED, policy)
    assert live[0].startswith("source: off") and "reports from inside the guest" in live[1]
    assert live[-2:] == ("probe: shop", "probe: tcp to each planned static address port 22 (optional)")
    skipped = replace(PLAN, decision=Decision(Action.SKIP, ("same hardware",)))
    test = needs(skipped, Mode.TEST, Policy())
    assert "evidence from outside" in test[0] and "absent in a test" in test[2] and len(test) == 3


def test_a_guest_cannot_make_it_long() -> None:
    value = ValueChange("SYSTEM\\Key", "Start", "dword:00000003", "dword:00000000")
    many = tuple(replace(value, name=f"v{number}") for number in range(MOST_VALUES + 2))
    found = intended([change("/x" * LONGEST, *many), *[change("/y")] * MOST])
    assert (len(found.changes), found.more) == (MOST, 1)
    first = found.changes[0]
    assert len(first.path) == LONGEST and first.path.endswith("…")
    assert first.values[0] == "SYSTEM\\Key: v0" and first.values[-1] == "and 2 more"
    assert "dword" not in json.dumps(encode(found)), "values are not shown"


def test_keys_and_default_values_have_names() -> None:
    made = intended([change("/h", ValueChange("K", None, None, ""), ValueChange("K", "", None, '"x"'))])
    assert made.changes[0].values == ("K: new key", "K: (default)")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"at": 5}', b"\xff"])
def test_a_file_of_another_release_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "preview.json").write_bytes(content)
    assert kept(tmp_path) is None


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "preview.json").write_text(json.dumps(encode(KNOWN)))
    assert kept(tmp_path) == KNOWN
