from __future__ import annotations

import sys

import pytest

from refloat.command import CommandFailed, Dialogue, run, stream
from refloat.errors import Failed

ECHO = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True); print('end', flush=True)"


def test_a_failure_tells_status_message_and_how_to_replay() -> None:
    with pytest.raises(CommandFailed, match="ended with status 3: no way") as caught:
        run(["sh", "-c", "echo no way >&2; exit 3"])
    assert "sh -c" in caught.value.hint


def test_a_missing_program_and_a_timeout_are_told() -> None:
    with pytest.raises(Failed, match="program not found"):
        run(["refloat-no-such-program"])
    with pytest.raises(Failed, match="did not end within"):
        run(["sleep", "60"], timeout=0.1)


def test_lines_come_as_they_are_made() -> None:
    seen: list[bytes] = []
    done = stream(["cat"], on_line=seen.append, input=b"a\nb\n")
    assert (seen, done.returncode) == ([b"a\n", b"b\n"], 0)


def test_a_dialogue_answers_again_and_again() -> None:
    dialogue = Dialogue([sys.executable, "-c", ECHO])
    for word in (b"one", b"two"):
        seen: list[bytes] = []

        def line(text: bytes, seen: list[bytes] = seen) -> bool:
            seen.append(text)
            return text == b"end\n"

        assert dialogue.ask(word, line, timeout=30)
        assert seen == [b"got " + word + b"\n", b"end\n"]
    dialogue.close()


def test_a_dialogue_whose_process_ends_says_so() -> None:
    dialogue = Dialogue(["true"])
    assert not dialogue.ask(b"anybody?", lambda _: True, timeout=30)


def test_a_silent_dialogue_ends_at_its_deadline() -> None:
    dialogue = Dialogue(["sleep", "60"])
    with pytest.raises(Failed, match="did not answer within"):
        dialogue.ask(b"anybody?", lambda _: True, timeout=0.2)


def test_a_program_is_not_given_the_hubs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFLOAT_SEAL_KEY", "REFLOAT_TOKEN", "REFLOAT_PASSWORD"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("ANOTHER", "told")
    said = run(["env"]).text
    assert "hush" not in said and "ANOTHER=told" in said
