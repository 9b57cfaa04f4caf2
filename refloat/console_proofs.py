"""What the console shows as evidence about the boot: pure. It speaks against a boot that is stuck, and never
makes a success.
"""

from __future__ import annotations

from refloat.console_states import BY_NAME, Meaning
from refloat.model import Findings, Observer, Plan, Proof, Sight


def console_proofs(findings: Findings) -> list[Proof]:
    """What the console shows last, on the screen and on the serial line; and what it has shown at any time,
    if that cannot be overcome. Words on a screen are never enough for a success."""
    proofs = []
    for where in dict.fromkeys(sight.where for sight in findings.console):
        sights = [sight for sight in findings.console if sight.where == where]
        for sight in dict.fromkeys([*(sight for sight in sights if _lasting(sight)), sights[-1]]):
            state = BY_NAME.get(sight.state)
            if state is not None and state.meaning is not Meaning.ON_ITS_WAY:
                text = f'its {_WHERE.get(where, where)} shows {state.says}: "{sight.words}"'
                proofs.append(Proof(Observer.PLATFORM, state.meaning is Meaning.UP, text))
    return proofs


_WHERE = {"screen": "console", "serial": "serial line"}


def _lasting(sight: Sight) -> bool:
    state = BY_NAME.get(sight.state)
    return state is not None and state.lasting


def greets_by_name(plan: Plan, findings: Findings) -> bool:
    """The console ends in a login prompt with the inspected guest's own name. (That of the controller, booted
    by mistake, has another.)"""
    login, own = BY_NAME["login"], plan.facts.hostname.partition(".")[0]
    screen = [sight for sight in findings.console if sight.where == "screen"]
    if not screen or screen[-1].state != login.name or not own:
        return False
    found = login.words.search(screen[-1].words)
    return found is not None and found["host"].partition(".")[0] == own
