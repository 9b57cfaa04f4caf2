"""The one runner of processes: argument lists only, bounded in time, logged so that it can be replayed."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from refloat.errors import Failed

log = logging.getLogger(__name__)

# Messages of tools are parsed and shown: keep them in one language.
_LOCALE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
_SECRET = frozenset({"REFLOAT_SEAL_KEY", "REFLOAT_TOKEN", "REFLOAT_PASSWORD"})


class CommandFailed(Failed):
    default_code = "command_failed"

    def __init__(self, argv: Sequence[str], returncode: int, stderr: bytes) -> None:
        tail = stderr.decode("utf-8", "replace").strip()[-800:]
        super().__init__(
            f"{argv[0]} ended with status {returncode}: {tail or 'no message'}",
            hint=f"replay it by hand: {shlex.join(argv)}",
        )
        self.returncode = returncode
        self.stderr = stderr


@dataclass(frozen=True)
class Completed:
    """What a finished process left: its exit status and both outputs, as bytes."""

    stdout: bytes
    stderr: bytes
    returncode: int

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace").strip()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The hub's, but what is secret in it: others may read a process's environment."""
    open_ones = {name: value for name, value in os.environ.items() if name not in _SECRET}
    return {**open_ones, **_LOCALE, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
    output: IO[bytes] | None = None,
) -> Completed:
    """Runs `argv` to its end. `timeout` is in seconds. With `output` all that it says goes to that file, and
    nothing of it is held in memory.

    Never pass a secret in argv: it is logged, and other users of the machine can read it.
    Raises CommandFailed for a non-zero status (unless check is False), Failed for a missing
    program or for a timeout; the process is killed then.
    """
    log.debug("run: %s", shlex.join(argv))
    try:
        done = subprocess.run(
            list(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            stdout=output or subprocess.PIPE,
            stderr=subprocess.STDOUT if output else subprocess.PIPE,
            timeout=timeout,
            env=environment(env),
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise Failed(
            f"program not found: {argv[0]}", code="program_missing", hint="run script/setup"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Failed(
            f"{argv[0]} did not end within {timeout} s",
            code="command_timeout",
            hint=f"replay it by hand: {shlex.join(argv)}",
        ) from error
    if check and done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr or b"")
    return Completed(done.stdout or b"", done.stderr or b"", done.returncode)


def stream(
    argv: Sequence[str],
    *,
    on_line: Callable[[bytes], None],
    input: bytes = b"",
    timeout: float | None = None,
) -> Completed:
    """Runs `argv` to its end and hands over each line of its output as it comes; `stdout` is empty then.

    Never raises for a non-zero status: the caller has seen the lines and knows more. Raises Failed for a
    missing program or for a timeout (in seconds); the process is killed then, and also when `on_line`
    raises.
    """
    log.debug("stream: %s", shlex.join(argv))
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
    except FileNotFoundError as error:
        raise Failed(
            f"program not found: {argv[0]}", code="program_missing", hint="run script/setup"
        ) from error
    assert process.stdin and process.stdout and process.stderr
    errors: list[bytes] = []
    late = threading.Event()
    helpers = [
        threading.Thread(target=_feed, args=(process.stdin, input), daemon=True),
        threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True),  # type: ignore[union-attr]
    ]

    def give_up() -> None:
        late.set()
        process.kill()

    alarm = threading.Timer(timeout or 0, give_up)
    with process:
        for helper in helpers:
            helper.start()
        if timeout is not None:
            alarm.start()
        try:
            for line in process.stdout:
                on_line(line)
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            alarm.cancel()
            for helper in helpers:
                helper.join()
    if late.is_set():
        raise Failed(
            f"{argv[0]} did not end within {timeout} s",
            code="command_timeout",
            hint=f"replay it by hand: {shlex.join(argv)}",
        )
    return Completed(b"", b"".join(errors), process.returncode)


def _feed(pipe: IO[bytes], content: bytes) -> None:
    with suppress(BrokenPipeError), pipe:
        pipe.write(content)


class Dialogue:
    """A process that answers requests, each a line in and any number of lines out.

    One request at a time. When the process ends, or is ended, `ask` says so and the dialogue is over.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        log.debug("dialogue: %s", shlex.join(argv))
        self._argv = argv
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )

    def ask(self, line: bytes, on_line: Callable[[bytes], bool], timeout: float) -> bool:
        """Sends `line` and hands over what comes until `on_line` says that it was the last.

        False when the process ended before that. Raises Failed after `timeout` seconds; then, and when
        `on_line` raises, the process is killed.
        """
        assert self._process.stdin and self._process.stdout
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        alarm = threading.Timer(timeout, give_up)
        alarm.start()
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
            for answer in self._process.stdout:
                if on_line(answer):
                    return True
        except BrokenPipeError:
            pass
        except BaseException:
            self.close()
            raise
        finally:
            alarm.cancel()
        self.close()
        if late.is_set():
            raise Failed(
                f"{self._argv[0]} did not answer within {timeout} s",
                code="command_timeout",
                hint=f"replay it by hand: {shlex.join(self._argv)}",
            )
        return False

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        self._process.wait()


class Service:
    """A process that runs beside this one until it is stopped. It ends when this process does, however."""

    def __init__(self, argv: Sequence[str]) -> None:
        log.debug("service: %s", shlex.join(argv))
        self._argv = argv
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment(),
        )

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Returns when `ready` says so. Raises CommandFailed if the process ends before, Failed after
        `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self._process.poll() is not None:
                self._errors.seek(0)
                raise CommandFailed(self._argv, self._process.returncode, self._errors.read())
            if time.monotonic() > deadline:
                raise Failed(f"{self._argv[0]} was not ready within {timeout} s", code="command_timeout")
            time.sleep(0.02)

    def errors(self) -> str:
        """What the process has said so far on its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode("utf-8", "replace")

    def stop(self, timeout: float = 60.0) -> None:
        """Asks the process to end, and waits for it. Raises Failed if it had to be killed."""
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise Failed(f"{self._argv[0]} did not end within {timeout} s", code="command_timeout") from error
        finally:
            self._errors.close()
