"""Steps 13 and 14 as a whole, over a fake platform: what is seen from outside becomes the verdict."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from refloat.clock import now
from refloat.model import Findings, Mode, PowerState, ProbeKind, Secrets, Verdict, Word
from refloat.policy import Probe
from refloat.run import Run
from refloat.validate import await_report, validate
from tests.unit.builders import PLAN, PROMOTED, replace
from tests.unit.fakes import World, make_world

SCREENS = Path(__file__).parents[1] / "golden" / "console"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)
    monkeypatch.setattr("refloat.validate.LISTEN_FOR", 0.05)
    monkeypatch.setattr("refloat.console_watch.AT_FIRST", 0.05)
    made = make_world(tmp_path)
    made.source.power = PowerState.OFF
    made.destination.defined = PROMOTED
    return made


def outcome(world: World) -> tuple[Run, Verdict]:
    """Of a guest that never reports, by a deadline of one second."""
    run = world.run(world.store.create_job("web", Mode.PLANNED).id)
    run.save("plan", replace(PLAN, job=run.job, report_deadline=1))
    run.save("promoted", PROMOTED)
    run.save("secrets", Secrets("token", "nonce"))
    run.save("started", now())
    validate(run)
    await_report(run)
    return run, run.need("verdict", Verdict)


def test_a_panic_on_the_console_is_the_boots_cause(world: World) -> None:
    world.destination.picture = (SCREENS / "panic.png").read_bytes()
    run, verdict = outcome(world)
    assert verdict.word is Word.FAILED
    cause = 'platform: its console shows a kernel panic: "Kernel panic - not syncing: VFS: Unable to mount'
    assert cause in verdict.reasons[0]
    sights = run.need("findings", Findings).console
    assert [sight.state for sight in sights] == ["kernel-panic"]
    assert (run.directory / "screens" / sights[0].picture).read_bytes() == world.destination.picture
    said = [str(event.data.get("message", "")) for event in world.store.events(run.job)]
    assert sum("the console shows a kernel panic" in text for text in said) == 1


def test_pictures_are_taken_for_the_whole_wait(world: World) -> None:
    """Each look shows another screen of the boot; the sequence is in the findings."""
    screens = iter(["nothing-to-boot", "grub-menu", "loader", "booting", "emergency-shell"])

    def next_screen(vm: str) -> bytes:
        name = next(screens, "emergency-shell")
        return (SCREENS / f"{name}.png").read_bytes()

    world.destination.screenshot = next_screen  # type: ignore[method-assign]
    run, verdict = outcome(world)
    seen = [sight.state for sight in run.need("findings", Findings).console]
    assert seen == ["no-boot-device", "grub-menu", "booting", "emergency-shell"]
    assert "emergency or rescue shell" in verdict.reasons[0]
    assert "nothing to boot" not in verdict.reasons[0]  # it was overcome


def test_the_operators_probes_are_made_and_marked(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        world.policy = replace(
            world.policy,
            probes=(
                Probe(server.getsockname()[1], address="127.0.0.1"),
                Probe(kind=ProbeKind.COMMAND, argv=("/bin/false",), required=False, within=0, name="shop"),
            ),
        )
        run, verdict = outcome(world)
    assert verdict.word is Word.PARTIAL
    assert [probe.answered for probe in run.need("findings", Findings).probes] == [True, False]
    assert "probes failed: operator: shop did not hold: ended with status 1" in verdict.reasons


def test_nothing_of_the_guest_is_changed(world: World) -> None:
    world.destination.calls.clear()
    outcome(world)
    assert world.destination.calls == [] and world.source.changed == []
