"""Takes notices out of the outbox to their channels, at least once each.

A hub that dies between the receiver's answer and the row that says so sends the notice again: its id is the
same, so that the receiver can tell.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from refloat.clock import now, seconds_between
from refloat.errors import NotFound, RefloatError
from refloat.notices import Kind, Notice
from refloat.notify.channels import Channel, Webhook
from refloat.notify.mail import send
from refloat.notify.webhook import post
from refloat.store.outbox import Outbox, Parcel, Tally
from refloat.text import span

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks into the outbox
WATCH = 15.0  # seconds between two looks at what changes with time alone
FIRST, LONGEST = 5.0, 900.0  # seconds before the second attempt, and between two at most
GIVE_UP = 24 * 3600.0  # seconds: who reads it later is misled by it
KEEP = 30 * 24 * 3600.0  # seconds for which the outcome can be looked at
# Test hook, as in run.py: the hub kills itself between the delivery and the row that says so.
KILL_AFTER = "REFLOAT_KILL_AFTER_NOTICE"


def next_try(created: str, attempts: int, at: str) -> str:
    """When to try again after this many attempts that failed; empty: never."""
    wait = min(LONGEST, FIRST * 2.0 ** min(attempts - 1, 16))
    if seconds_between(created, at) + wait > GIVE_UP:
        return ""
    return later(at, wait)


def later(at: str, seconds: float) -> str:
    return (datetime.fromisoformat(at) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class ChannelStatus:
    """`where` is empty for a channel that the settings do not name any more."""

    name: str
    kind: str
    where: str
    events: tuple[Kind, ...]
    tally: Tally


class Courier:
    """A thread for each channel: one that hangs holds up no other. `watch` looks at what changes with time
    alone; `url` is the hub's, for links."""

    def __init__(
        self,
        outbox: Outbox,
        channels: Sequence[Channel],
        url: str,
        watch: Callable[[], None] = lambda: None,
        tick: float = TICK,
    ) -> None:
        self._outbox, self._url, self._watch, self._tick = outbox, url, watch, tick
        self._channels = {channel.name: channel for channel in channels}
        self._stop = threading.Event()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(channel,), name=f"notify-{channel.name}", daemon=True)
            for channel in channels
        ]
        self._threads.append(threading.Thread(target=self._keep, name="notify", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, within: float = 3.0) -> None:
        """A delivery that is under way for longer is not waited for: it will be made again."""
        self._stop.set()
        until = time.monotonic() + within
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        self._closed = True

    # ------------------------------------------------------------ asked by people

    def statuses(self) -> list[ChannelStatus]:
        found = []
        for name, tally in sorted(self._outbox.tallies().items()):
            channel = self._channels.get(name)
            if channel is None:
                found.append(ChannelStatus(name, "", "", (), tally))
            else:
                events = tuple(sorted(channel.events))
                found.append(ChannelStatus(name, channel.kind, channel.where, events, tally))
        return found

    def channel(self, name: str) -> Channel:
        if name not in self._channels:
            raise NotFound(
                f"the settings name no channel {name}",
                code="unknown_channel",
                hint="list the known ones with `refloat notify list`",
            )
        return self._channels[name]

    def test(self, channel: Channel) -> str:
        """Sends a notice that is not in the outbox; returns what the other side answered. Raises Failed,
        Refused as the delivery does."""
        notice = Notice(secrets.token_hex(16), Kind.TEST, now(), "test", detail=channel.name)
        return deliver(channel, notice, self._url)

    # ------------------------------------------------------------ threads

    def _serve(self, channel: Channel) -> None:
        while not self._stop.wait(self._tick):
            try:
                self._round(channel)
            except Exception:
                log.exception("the outbox of %s cannot be worked on", channel.name)
                self._stop.wait(WATCH)

    def _round(self, channel: Channel) -> None:
        """What is due, oldest first, up to the first that fails: the others wait for the next round."""
        for parcel in self._outbox.due(channel.name, now()):
            if self._stop.is_set() or not self._carry(channel, parcel):
                return

    def _carry(self, channel: Channel, parcel: Parcel) -> bool:
        try:
            deliver(channel, parcel.notice, self._url)
        except Exception as error:
            self._not_delivered(parcel, error)
            return False
        _kill_point(parcel)
        if not self._closed:
            self._outbox.delivered(parcel.id)
        return True

    def _not_delivered(self, parcel: Parcel, error: Exception) -> None:
        """Whatever it was: a defect in one delivery must not end the others."""
        told = error.message if isinstance(error, RefloatError) else f"{type(error).__name__}: {error}"
        again = next_try(parcel.notice.at, parcel.attempts + 1, now())
        what = f"{parcel.notice.kind} for {parcel.channel}"
        if again:
            log.warning("%s was not delivered: %s", what, told)
        else:
            log.error("%s is given up after %d attempts: %s", what, parcel.attempts + 1, told)
        if not isinstance(error, RefloatError):
            log.error("unexpected", exc_info=error)
        if not self._closed:
            self._outbox.failed(parcel.id, told, again)

    def _keep(self) -> None:
        while True:
            try:
                self._watch()
                self._give_up_orphans()
                self._outbox.prune(later(now(), -KEEP))
            except Exception:
                log.exception("the outbox cannot be kept in order")
            if self._stop.wait(WATCH):
                return

    def _give_up_orphans(self) -> None:
        """A channel may be taken out of the settings by mistake, and put back: not at once."""
        for parcel in self._outbox.orphans():
            if seconds_between(parcel.notice.at, now()) > GIVE_UP:
                self._outbox.failed(parcel.id, "the settings do not name this channel", "")


def deliver(channel: Channel, notice: Notice, url: str) -> str:
    """What the other side answered. Raises Failed, Refused."""
    if isinstance(channel, Webhook):
        return post(channel, notice, url)
    return send(channel, notice, url)


def in_doubt(tally: Tally) -> tuple[str, bool]:
    """What is wrong with a channel, in words (empty: nothing), and whether that is over."""
    if tally.waiting and tally.last_error:
        age = span(seconds_between(tally.oldest_waiting, now()))
        return f"{tally.waiting} notices wait, the oldest for {age}: {tally.last_error}", False
    if tally.given_up:
        return f"{tally.given_up} notices were given up in the last 30 days: {tally.last_error}", True
    return "", False


def _kill_point(parcel: Parcel) -> None:
    if os.environ.get(KILL_AFTER) == parcel.notice.kind and parcel.attempts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
