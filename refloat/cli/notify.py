"""`refloat notify ...`: who is told what happens, and whether it reaches them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from refloat.cli.common import AsJson, Url, connect, sub_app
from refloat.cli.output import note, print_json, say, table
from refloat.text import instant

notify = sub_app("Webhooks and mail that tell what happens; see docs/notifications.md.")


@notify.command("list")
def list_channels(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List the channels of the settings, and how their deliveries go."""
    with connect(ctx, url) as client:
        found = client.channels()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["name"],
            one["kind"] or "not in the settings",
            one["where"],
            *(str(one[state]) for state in ("delivered", "waiting", "given_up")),
            instant(one["last_delivered"]) or "never",
            one["last_error"],
        )
        for one in found
    ]
    head = ("CHANNEL", "KIND", "TO", "DELIVERED", "WAITING", "GIVEN UP", "LAST (UTC)", "LAST ERROR")
    table(head, rows, "nobody is told: see docs/notifications.md on `notify` in the settings")


@notify.command("test")
def test_channel(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The channel's name in the settings.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send a test notice, and say what the other side answered. Exit code 1: it was not delivered."""
    with connect(ctx, url) as client:
        done: dict[str, Any] = client.test_channel(name)
    if as_json:
        print_json(done)
    else:
        say(f"{'delivered' if done['delivered'] else 'not delivered'}: {done['answer']}")
        if done["hint"]:
            note(f"  what to do: {done['hint']}")
    raise typer.Exit(0 if done["delivered"] else 1)
