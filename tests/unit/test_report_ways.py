"""How a guest will be heard: which of its programs can send, and what is said before a failover."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from refloat.guest.firstboot.senders import SENDERS, senders_of
from refloat.guest.tree import Tree
from refloat.model import Callback
from refloat.report_ways import NO_SENDER, NO_WAY, report_warnings
from tests.unit.builders import FACTS
from tests.unit.fakes import World, make_world

HTTPS = Callback("https://10.0.0.2:8411/api/v1/reports/", "certificate")
PLAIN = Callback("http://127.0.0.1:8411/api/v1/reports/", "")


def guest(root: Path, *programs: str) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for program in programs:
        (root / "usr/bin" / program).touch()
    return root


def found(root: Path) -> tuple[str, ...]:
    with Tree(root) as tree:
        return senders_of(tree)


def test_what_can_send(tmp_path: Path) -> None:
    assert found(guest(tmp_path / "none")) == ()
    assert found(guest(tmp_path / "two", "openssl", "curl", "curlier", "xwget")) == ("curl", "openssl")
    assert found(guest(tmp_path / "wget", "wget")) == ("wget",)


def test_wget_of_busybox_checks_nothing_and_hostile_links_lead_nowhere(tmp_path: Path) -> None:
    root = guest(tmp_path / "guest", "busybox")
    (root / "usr/bin/wget").symlink_to("/bin/busybox")
    (root / "usr/bin/curl").symlink_to("/nowhere")
    (root / "usr/bin/python3").symlink_to("python3")
    (root / "usr/bin/openssl").mkdir()
    assert found(root) == ()


def test_the_guests_script_knows_the_same_programs() -> None:
    script = (files("refloat.guest.firstboot") / "callback.sh").read_text()
    named = re.search(r"SENDERS='([^']*)'", script)
    assert named and named[1].split() == [*SENDERS, "plain"]


@pytest.mark.parametrize(
    ("senders", "channel", "callback", "said"),
    [
        ((), True, None, ()),
        ((), True, HTTPS, ()),
        (("curl",), False, None, (NO_WAY,)),
        (("curl",), False, HTTPS, ()),
        ((), False, HTTPS, (NO_SENDER,)),
        ((), False, PLAIN, ()),
    ],
)
def test_what_is_said(
    senders: tuple[str, ...], channel: bool, callback: Callback | None, said: tuple[str, ...]
) -> None:
    assert report_warnings(replace(FACTS, senders=senders), channel, callback) == said


def test_it_is_among_the_plans_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refloat.prepare import make_plan

    world: World = make_world(tmp_path)
    try:
        run = world.run(world.job())
        assert not {NO_WAY, NO_SENDER} & set(make_plan(run, world.source.vm, FACTS, None).warnings)
        monkeypatch.setattr(world.destination, "has_channel", False)
        assert NO_WAY in make_plan(run, world.source.vm, FACTS, None).warnings
        heard = replace(run, callback=HTTPS)
        assert NO_SENDER in make_plan(heard, world.source.vm, FACTS, None).warnings
    finally:
        world.store.engine.dispose()
