"""The outbox on its way: a real store, real receivers, the threads of the hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refloat.errors import NotFound
from refloat.model import JobState, Mode
from refloat.notices import ALL, Kind
from refloat.notify import courier as module
from refloat.notify import webhook
from refloat.notify.channels import Channel, Webhook
from refloat.notify.courier import Courier, in_doubt
from refloat.secret import SecretRef
from refloat.store.outbox import Tally
from refloat.store.store import Store
from tests.unit.notify.receivers import Receiver
from tests.unit.simulated.rig import until

URL = "https://hub.example"
Make = Callable[..., Receiver]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "refloat.sqlite")
    opened.ensure_target("web")
    yield opened
    opened.engine.dispose()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", 0.05)
    monkeypatch.setattr(module, "LONGEST", 0.1)
    monkeypatch.setattr(module, "WATCH", 0.05)
    monkeypatch.setattr(webhook, "QUIET", 0.3)


@contextmanager
def carrying(store: Store, *channels: Channel, watch: Callable[[], None] = lambda: None) -> Iterator[Courier]:
    store.outbox.wanted = {one.name: one.events for one in channels}
    courier = Courier(store.outbox, channels, URL, watch, tick=0.02)
    courier.start()
    try:
        yield courier
    finally:
        courier.stop()


def happen(store: Store, *states: JobState) -> None:
    job = store.create_job("web", Mode.PLANNED)
    for state in states:
        store.set_state(job.id, state)


def test_faults_are_outlasted_in_order_of_trouble(store: Store, receiver: Make, secret: SecretRef) -> None:
    """Each fault once, then it is taken; every notice arrives, each with one id at all its deliveries."""
    there = receiver(500, "drop", "hang", 302, "noise")
    with carrying(store, Webhook("ops", there.url, secret)) as courier:
        happen(store, JobState.RUNNING, JobState.BLOCKED, JobState.COMMITTED)
        until(lambda: store.outbox.tallies()["ops"].delivered == 3, "all are delivered")
        (status,) = courier.statuses()
        assert status.tally.last_error == "" and in_doubt(status.tally) == ("", False)
    ids = [headers["webhook-id"] for _, headers, _ in there.got]
    assert len(set(ids)) == 3 and len(ids) == 8


def test_a_channel_that_hangs_holds_up_no_other(store: Store, receiver: Make, secret: SecretRef) -> None:
    hangs, well = receiver(*["hang"] * 100), receiver()
    with carrying(store, Webhook("a", hangs.url, secret), Webhook("b", well.url, secret)):
        happen(store, JobState.RUNNING, JobState.BLOCKED)
        until(lambda: len(well.got) == 2, "the other gets both")
        until(lambda: bool(store.outbox.tallies()["a"].last_error), "the first is known to hang")
        doubt, over = in_doubt(store.outbox.tallies()["a"])
        assert "2 notices wait" in doubt and "no answer within" in doubt and not over


def test_it_is_given_up(
    store: Store, receiver: Make, secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.3)
    there = receiver(*[503] * 100)
    with carrying(store, Webhook("ops", there.url, secret)):
        happen(store, JobState.RUNNING)
        until(lambda: store.outbox.tallies()["ops"].given_up == 1, "it is given up")
        tried = len(there.got)
        happened = store.outbox.tallies()["ops"]
        assert tried >= 2 and happened.waiting == 0 and "503" in happened.last_error
        assert in_doubt(happened) == (
            f"1 notices were given up in the last 30 days: {happened.last_error}",
            True,
        )
    assert len(there.got) == tried, "nothing is sent after that"


def test_a_channel_taken_out_of_the_settings(
    store: Store, receiver: Make, secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.2)
    store.outbox.wanted = {"old": ALL}
    happen(store, JobState.RUNNING)
    with carrying(store) as courier:
        until(lambda: store.outbox.tallies()["old"].given_up == 1, "it is given up")
        (status,) = courier.statuses()
        assert (status.name, status.kind) == ("old", "")


def test_only_what_is_asked_for(store: Store, receiver: Make, secret: SecretRef) -> None:
    there = receiver()
    with carrying(store, Webhook("ops", there.url, secret, frozenset({Kind.BLOCKED}))):
        happen(store, JobState.RUNNING, JobState.BLOCKED)
        until(lambda: store.outbox.tallies()["ops"].delivered == 1, "it is delivered")
    assert b'"type":"job.blocked"' in there.got[0][2] and len(there.got) == 1


def test_a_defect_ends_nothing(
    store: Store, receiver: Make, secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the delivery, of the store, of the watch: each is tried again."""
    there, looks = receiver(), threading.Event()
    broken = iter((True, True))

    def watch() -> None:
        if next(broken, False):
            raise ZeroDivisionError
        looks.set()

    due, failing = store.outbox.due, iter((True,))

    def breaks(channel: str, at: str) -> object:
        if next(failing, False):
            raise ZeroDivisionError
        return due(channel, at)

    monkeypatch.setattr(store.outbox, "due", breaks)
    none = Webhook("none", there.url, SecretRef("/nonexistent/secret"))
    with carrying(store, Webhook("ops", there.url, secret), none, watch=watch):
        happen(store, JobState.RUNNING)
        until(lambda: store.outbox.tallies()["ops"].delivered == 1, "it is delivered")
        until(lambda: "no secret" in store.outbox.tallies()["none"].last_error, "the other says why not")
        assert looks.wait(10)


def test_a_test_goes_past_the_outbox(store: Store, receiver: Make, secret: SecretRef) -> None:
    there = receiver()
    courier = Courier(store.outbox, [Webhook("ops", there.url, secret, frozenset())], URL)
    assert courier.test(courier.channel("ops")).startswith("200 OK")
    assert b'"type":"test"' in there.got[0][2] and store.outbox.tallies() == {}
    with pytest.raises(NotFound, match="no channel none"):
        courier.channel("none")


def test_a_hub_that_stops_does_not_wait_for_who_hangs(
    store: Store, receiver: Make, secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way is delivered by the next one, and counted as not delivered until then."""
    monkeypatch.setattr(webhook, "QUIET", 10.0)
    there = receiver("hang", "hang")
    hooks = [Webhook(name, there.url, secret) for name in ("a", "b")]
    with carrying(store, *hooks) as courier:
        happen(store, JobState.RUNNING)
        until(lambda: len(there.got) == 2, "both hang")
        begun = time.monotonic()
        courier.stop(within=0.2)
        assert time.monotonic() - begun < 2
        there.over.set()
    with carrying(store, *hooks):
        until(lambda: store.outbox.tallies()["b"].delivered == 1, "the next one delivers")
    assert len({headers["webhook-id"] for _, headers, _ in there.got}) == 1


def test_a_new_channel_is_in_no_doubt() -> None:
    assert in_doubt(Tally()) == ("", False) and in_doubt(Tally(waiting=2)) == ("", False)
