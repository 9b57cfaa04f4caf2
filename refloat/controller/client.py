"""The hub's side of the controller: calls over SSH, answers as records, errors as ours."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from refloat.codec import DecodeError, decode, encode
from refloat.command import Completed, Dialogue
from refloat.controller.records import ControllerDisk, DriverFolder, Export, Health, SyncStatus
from refloat.controller.ssh import SshLink
from refloat.controller.zipapp import controller_code
from refloat.errors import Failed, RefloatError, Unreachable
from refloat.model import (
    Adaptation,
    AdaptRequest,
    DiskBus,
    DriverFile,
    Endpoint,
    GuestFacts,
    Intended,
    NicModel,
    PlannedDisk,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[dict[str, Any]], None]

CODE_DIRECTORY = "/var/lib/refloat/code"
_NO_CODE = 97  # what our wrapper answers when the controller has other code or none

# $1: directory, $2: sha256, $3: the end of the file's name; the content comes on standard input.
_PUSH = """set -eu
umask 077
mkdir -p "$1"
cd "$1"
find . '(' -name '*.pyz' -mtime +0 -o -name 'draft.*' -mmin +60 ')' -delete
cat >"draft.$$"
printf '%s  %s\\n' "$2" "draft.$$" | sha256sum -c --status || { rm "draft.$$"; exit 98; }
sync "draft.$$"
mv "draft.$$" "$2$3"
sync .
"""
# -I -S: no site, no environment, no user's modules; it also starts faster.
_RUN = f'[ -f "$1" ] || exit {_NO_CODE}; exec python3 -I -S "$@"'

_QUICK = 120.0  # seconds; a call is answered within 5 even under emulation, but a restart may be on
_MERGE = 24 * 3600.0
_ADAPT = 3600.0


class Link(Protocol):
    """How commands and bytes get to a controller (SshLink)."""

    def stream(
        self, command: Sequence[str], on_line: Callable[[bytes], None], content: bytes, timeout: float
    ) -> Completed: ...

    def dialogue(self, command: Sequence[str]) -> Dialogue: ...

    def forward(self, port: int) -> AbstractContextManager[str]: ...

    def disconnect(self) -> None: ...


class ControllerClient:
    """One target's controller. Thread-safe; holds a connection, never state.

    Every method raises Unreachable when the controller does not answer, Refused (host_key_mismatch) when
    another machine does, and the error that the controller itself reports.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        reach: Callable[[], tuple[str, int]],
        state_dir: Path,
        link: Link | None = None,
        code_directory: str = CODE_DIRECTORY,
    ) -> None:
        self._link = link or SshLink(endpoint, reach, state_dir)
        self._code_directory = code_directory
        self._session: Dialogue | None = None
        self._session_lock = threading.Lock()  # held by the one call that uses the session

    # ------------------------------------------------------------ what a controller can do

    def health(self) -> Health:
        return self._decoded(Health, self.call(["health"]))

    def wait_ready(self, deadline: float = 600.0) -> Health:
        """Returns as soon as the controller answers. `deadline` in seconds; raises Unreachable after it."""
        end = time.monotonic() + deadline
        while True:
            try:
                return self.health()
            except Unreachable:
                if time.monotonic() > end:
                    raise
                self.disconnect()  # a connection to the machine before its restart would only time out
                time.sleep(1)

    def disks(self, serials: Sequence[str] = (), hashed: bool = False) -> tuple[ControllerDisk, ...]:
        """`hashed`: with the sha256 of the whole disk, which reads all of it."""
        flags = ["--hash"] if hashed else []
        answer = self.call(["disks", *flags, *serials], timeout=_MERGE if hashed else _QUICK)
        return self._decoded(tuple[ControllerDisk, ...], answer)

    def sync_status(self) -> SyncStatus:
        return self._decoded(SyncStatus, self.call(["sync", "status"]))

    def sync_open(self, point: str, direct: bool, sizes: Mapping[str, int]) -> tuple[Export, ...]:
        """Opens the replica disks (serial -> bytes) for writing: into deltas, or directly while no
        complete sync point exists."""
        mode = "--direct" if direct else "--delta"
        disks = [f"{serial}={size}" for serial, size in sizes.items()]
        return self._decoded(
            tuple[Export, ...], self.call(["sync", "open", point, mode, *disks], timeout=_MERGE)
        )

    def sync_complete(self, point: str, progress: Progress | None = None) -> SyncStatus:
        """All blocks were sent and flushed: the replica becomes this point."""
        answer = self.call(["sync", "complete", point], progress=progress, timeout=_MERGE)
        return self._decoded(SyncStatus, answer)

    def sync_close(self, progress: Progress | None = None) -> SyncStatus:
        """Ends exports; finishes an attempt that was complete and discards one that was not."""
        return self._decoded(SyncStatus, self.call(["sync", "close"], progress=progress, timeout=_MERGE))

    def stop_exports(self, serials: Sequence[str] = ()) -> str | None:
        """As sync_close, with proof that nothing holds these replica disks; returns the point they hold."""
        answer = self.call(["sync", "stop", *serials], timeout=_MERGE)
        return self._decoded(SyncStatus, answer).merged_point

    def open_exports(self) -> tuple[str, ...]:
        """Serials of the replica disks that something could write over NBD now."""
        return self.sync_status().exports

    def inspect(
        self,
        disks: Sequence[PlannedDisk],
        bus: DiskBus,
        nic: NicModel,
        progress: Progress | None = None,
        luks_keys: Mapping[str, str] | None = None,
    ) -> GuestFacts:
        """`bus` and `nic` are the destination's: the facts name what the guest lacks for them.

        `luks_keys` are passphrases by the UUID of the container; they travel on standard input alone.
        """
        request = {"disks": encode(tuple(disks)), "bus": bus.value, "nic": nic.value}
        if luks_keys:
            request["luks_keys"] = dict(luks_keys)
        return self._decoded(GuestFacts, self.call(["inspect"], _json(request), progress, _ADAPT))

    def drivers(self, files: Sequence[DriverFile], contents: Callable[[], Mapping[str, bytes]]) -> str:
        """The controller's folder with these files. `contents` gives them by path; it is asked for only
        where they have to be sent. Raises Refused (no_space) where the controller has no room."""
        request = {"files": encode(tuple(files)), "archive": ""}
        answer = self._decoded(DriverFolder, self.call(["drivers"], _json(request)))
        if not answer.folder:
            log.info("pushing %d driver files", len(files))
            archive = _zipped(contents())
            request["archive"] = hashlib.sha256(archive).hexdigest()
            self._push(archive, request["archive"], answer.incoming, ".zip")
            answer = self._decoded(DriverFolder, self.call(["drivers"], _json(request), timeout=_ADAPT))
        return answer.folder

    def adapt(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Adaptation:
        """Runs in the controller by itself; a second call for the same job attaches or gets the result."""
        content = _json({"request": encode(request), "facts": encode(facts)})
        return self._decoded(Adaptation, self.call(["adapt"], content, progress, _ADAPT))

    def intend(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Intended:
        """What `adapt` would change, worked out on views of the disks: nothing is written to them."""
        content = _json({"request": encode(request), "facts": encode(facts)})
        return self._decoded(Intended, self.call(["plan"], content, progress, _ADAPT))

    def forward(self, port: int) -> AbstractContextManager[str]:
        """A Unix socket here that leads to this port of the controller's loopback."""
        return self._link.forward(port)

    def disconnect(self) -> None:
        """To be called when the VM is stopped or becomes another machine."""
        with self._session_lock:
            self._end_session()
        self._link.disconnect()

    # ------------------------------------------------------------ how

    def call(
        self,
        command: Sequence[str],
        content: bytes = b"",
        progress: Progress | None = None,
        timeout: float = _QUICK,
    ) -> Any:
        """The data that `refloat-controller COMMAND` answers; pushes the code first where it is missing.

        `content` goes to its standard input (secrets go only there), `timeout` is in seconds.
        """
        answered = self._ask_session(command, content, progress, timeout)
        if answered is not None:
            return answered.data(command, 0, b"")
        code = controller_code()
        for _ in range(2):
            answer = _Answer(progress)
            done = self._link.stream(self._argv(code.sha256, command), answer.line, content, timeout)
            if done.returncode != _NO_CODE:
                self._open_session(code.sha256)
                return answer.data(command, done.returncode, done.stderr)
            log.info("pushing the controller's code %s", code.sha256[:12])
            self._push(code.content, code.sha256)
        raise Failed("the controller's code vanishes after it was pushed", code="push_failed")

    def _argv(self, sha256: str, command: Sequence[str]) -> list[str]:
        file = f"{self._code_directory}/{sha256}.pyz"
        return ["sh", "-c", _RUN, "refloat-controller", file, *command]

    # A call of its own starts a Python each time: a second under emulation. The session is only the faster
    # way: where there is none, where it is busy or has died, the call of its own is made.

    def _open_session(self, sha256: str) -> None:
        if self._session is None and self._session_lock.acquire(blocking=False):
            try:
                self._session = self._link.dialogue(self._argv(sha256, ["session"]))
            except RefloatError as error:
                log.debug("no session: %s", error)
            finally:
                self._session_lock.release()

    def _ask_session(
        self, command: Sequence[str], content: bytes, progress: Progress | None, timeout: float
    ) -> _Answer | None:
        """The answer of the session; None when it gave none, and the call has to be made another way."""
        if not self._session_lock.acquire(blocking=False):
            return None
        try:
            session = self._session
            if session is None:
                return None
            answer = _Answer(progress)
            request = _json({"argv": list(command), "content": content.decode()})
            if session.ask(request, answer.last_line, timeout) and answer.complete:
                return answer
            self._end_session()
            return None
        except BaseException:
            self._end_session()
            raise
        finally:
            self._session_lock.release()

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _push(self, content: bytes, sha256: str, directory: str = "", suffix: str = ".pyz") -> None:
        """The receiver checks the hash before the file gets its name. Only code of other days goes: a run
        that was started with it may still be loading modules."""
        directory = directory or self._code_directory
        argv = ["sh", "-c", _PUSH, "push", directory, sha256, suffix]
        done = self._link.stream(argv, lambda _line: None, content, 600)
        if done.returncode != 0:
            tail = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise Failed(
                f"cannot put a file into the controller: {tail or 'it arrived damaged'}",
                code="push_failed",
                hint=f"is its disk full? look at {directory} there",
            )

    @staticmethod
    def _decoded(record: type[T], data: Any) -> T:
        try:
            return decode(record, data)
        except DecodeError as error:
            raise Failed(f"the controller's answer is not understood: {error}", code="protocol")


class _Answer:
    """Collects the lines of one call."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        return self._last is not None

    def last_line(self, line: bytes) -> bool:
        """As `line`, for a session; True for the line after which nothing comes."""
        if line.startswith(b'{"event": "end"'):
            return True
        self.line(line)
        return False

    def line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, AttributeError):
            log.warning("the controller said: %r", line[:200])
            return
        if kind == "progress":
            if self._progress:
                self._progress(event)
        else:
            self._last = {"event": kind, **event}

    def data(self, command: Sequence[str], status: int, stderr: bytes) -> Any:
        if self._last is None:
            tail = stderr.decode("utf-8", "replace").strip()[-500:]
            raise Failed(
                f"refloat-controller {command[0]} gave status {status} and no answer: {tail or 'no message'}",
                code="no_answer",
                hint="the controller may lack memory or disk space: see its console",
            )
        if self._last["event"] == "error":
            log.debug("controller stderr: %s", stderr.decode("utf-8", "replace"))
            raise RefloatError.from_dict(self._last)
        return self._last["data"]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(path), content)
    return buffer.getvalue()
