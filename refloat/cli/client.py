"""The API from the client's side: one method per call, errors as RefloatError."""

from __future__ import annotations

import getpass
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from refloat.cli.exits import HubUnreachable
from refloat.errors import Failed, NotFound, RefloatError, Refused

if TYPE_CHECKING:
    import httpx

_CONNECT = 5.0  # seconds
_ANSWER = 60.0  # seconds; evidence with many screenshots takes the longest
_TOKEN_HINT = "set REFLOAT_TOKEN, or run this as a user who can read the hub's api-token file"

# What OpenSSL and httpx say of two sides that do not speak the same.
_SIGNS = {
    "CERTIFICATE_VERIFY_FAILED": "name the hub's certificate or its authority with REFLOAT_TLS_CA, and the "
    "hub by a name that its certificate has; nothing was sent",
    "WRONG_VERSION_NUMBER": "that hub speaks plain HTTP: write http:// in its address",
    "disconnected without sending": "does that hub speak TLS? then write https:// in its address",
}

Data = dict[str, Any]


class Client:
    """Use it in a `with` block. `transport` replaces the network (tests); `ca` is a PEM file with what is
    trusted instead of the system's authorities. Raises Refused (bad_tls) where it is none."""

    def __init__(self, url: str, token: str, transport: Any = None, ca: Path | None = None) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"authorization": f"Bearer {token}", "x-refloat-user": _os_user()},
            timeout=httpx.Timeout(_ANSWER, connect=_CONNECT),
            transport=transport,
            verify=_trusting(ca) if ca and self.url.startswith("https:") else True,
            # A proxy of the environment must not get to see the token of a hub on this machine.
            trust_env=self.url.startswith("https:"),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # ------------------------------------------------------------ targets

    def targets(self) -> list[Data]:
        return list(self._pages("/targets", "targets", "after"))

    def target(self, name: str) -> Data:
        return cast(Data, self._call("GET", f"/targets/{_part(name)}"))

    def sync(self, name: str, full: bool = False) -> Data:
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/sync", {"full": full}))

    def add_target(self, name: str) -> Data:
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/provision"))

    def remove_target(self, name: str) -> Data:
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/remove"))

    def start_failover(self, name: str, mode: str, source_is_off: str = "") -> Data:
        body = {"mode": mode, **({"source_is_off": source_is_off} if source_is_off else {})}
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/failover", body))

    def pause(self, name: str) -> Data:
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/pause"))

    def resume(self, name: str) -> Data:
        return cast(Data, self._call("POST", f"/targets/{_part(name)}/resume"))

    # ------------------------------------------------------------ jobs

    def jobs(self) -> list[Data]:
        """Newest first; all of them, unless the caller stops to read."""
        return list(self._pages("/jobs", "jobs", "before"))

    def job(self, job_id: str) -> Data:
        return cast(Data, self._call("GET", f"/jobs/{_part(job_id)}"))

    def events(self, job_id: str, after: int, wait: float = 0) -> Data:
        return cast(Data, self._call("GET", f"/jobs/{_part(job_id)}/events?after={after}&wait={wait}"))

    def last_event(self, job_id: str) -> int:
        """The id of the newest event now: where watching what comes next starts."""
        after = 0
        while (page := self.events(job_id, after))["events"]:
            after = int(page["next"])
        return after

    def decide(self, job_id: str, what: str, reason: str, discard_writes: bool = False) -> Data:
        """`what` is commit, rollback, abort or resume."""
        body = {"reason": reason, "discard_writes": discard_writes}
        return cast(Data, self._call("POST", f"/jobs/{_part(job_id)}/{what}", body))

    def evidence(self, job_id: str) -> Data:
        return cast(Data, self._call("GET", f"/jobs/{_part(job_id)}/evidence"))

    def evidence_page(self, job_id: str) -> str:
        return self._send("GET", f"/jobs/{_part(job_id)}/evidence.html", None).text

    # ------------------------------------------------------------ estate

    def estate(self, version: int | None = None) -> Data:
        """The one in use, or an earlier one."""
        return cast(Data, self._call("GET", f"/estate/versions/{version}" if version else "/estate"))

    def estate_versions(self) -> list[Data]:
        """Newest first."""
        return list(self._pages("/estate/versions", "versions", "before"))

    def compare_estate(self, text: str, name: str) -> Data:
        return cast(Data, self._call("POST", "/estate/diff", {"text": text, "name": name}))

    def apply_estate(self, text: str, name: str, base: int, reason: str) -> Data:
        body = {"text": text, "name": name, "base": base, "reason": reason}
        return cast(Data, self._call("PUT", "/estate", body))

    # ------------------------------------------------------------ access

    def users(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/users"))

    def add_user(self, name: str, role: str, password: str) -> Data:
        return cast(Data, self._call("POST", "/users", {"name": name, "role": role, "password": password}))

    def change_user(self, name: str, **changes: Any) -> Data:
        return cast(Data, self._call("PATCH", f"/users/{_part(name)}", changes))

    def secrets(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/secrets"))

    def set_secret(self, name: str, value: str) -> Data:
        return cast(Data, self._call("PUT", f"/secrets/{_part(name)}", {"value": value}))

    def remove_secret(self, name: str) -> Data:
        return cast(Data, self._call("DELETE", f"/secrets/{_part(name)}"))

    def channels(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/channels"))

    def test_channel(self, name: str) -> Data:
        return cast(Data, self._call("POST", f"/channels/{_part(name)}/test"))

    def tokens(self) -> list[Data]:
        return cast(list[Data], self._call("GET", "/tokens"))

    def issue_token(self, **wanted: Any) -> Data:
        return cast(Data, self._call("POST", "/tokens", wanted))

    def revoke_token(self, id: str) -> Data:
        return cast(Data, self._call("DELETE", f"/tokens/{_part(id)}"))

    def audit(self, before: int = 0, subject: str = "", limit: int = 50) -> Data:
        asked = f"before={before}&limit={limit}&subject={_part(subject) if subject else ''}"
        return cast(Data, self._call("GET", f"/audit?{asked}"))

    def verify_audit(self, head: str = "") -> Data:
        return cast(Data, self._call("GET", f"/audit/verify?head={head}"))

    # ------------------------------------------------------------ how

    def _pages(self, path: str, what: str, cursor: str) -> Iterator[Data]:
        last: str | int = ""
        while True:
            page = self._call("GET", f"{path}?limit=200{f'&{cursor}={_part(str(last))}' if last else ''}")
            yield from page[what]
            if not (last := page["next"]):
                return

    def _call(self, method: str, path: str, body: Data | None = None) -> Any:
        answer = self._send(method, path, body)
        try:
            return answer.json()
        except ValueError as error:
            raise _not_a_hub(self.url) from error

    def _send(self, method: str, path: str, body: Data | None) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, json=body)
        except httpx.InvalidURL as error:
            raise Refused(
                f"{self.url!r} is no address of a hub",
                code="bad_url",
                hint="write it like http://127.0.0.1:8410",
            ) from error
        except httpx.TransportError as error:
            raise HubUnreachable(
                f"no hub answers at {self.url}: {error}", hint=_unreachable_hint(str(error))
            ) from error
        if answer.is_success:
            return answer
        raise _error_of(answer, self.url)


def _trusting(ca: Path) -> ssl.SSLContext:
    """Also a single certificate that is nobody's authority: then it is that one, and no other."""
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        hint = "tls_ca (or REFLOAT_TLS_CA) is a PEM file with the hub's certificate, or its authority's"
        raise Refused(f"cannot use {ca}: {error}", code="bad_tls", hint=hint) from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _unreachable_hint(said: str) -> str:
    for sign, hint in _SIGNS.items():
        if sign in said:
            return hint
    return "start it with `refloat serve`, or name another with --url or REFLOAT_URL"


def _error_of(answer: httpx.Response, url: str) -> RefloatError:
    """The hub's {code, message, hint} as the error it was. A 4xx has changed nothing."""
    try:
        data = answer.json()
        code, message, hint = (str(data[key]) for key in ("code", "message", "hint"))
    except (ValueError, KeyError, TypeError):
        return _not_a_hub(url)
    if answer.status_code == 401:
        hint = _TOKEN_HINT
    family = Failed if answer.status_code >= 500 else NotFound if answer.status_code == 404 else Refused
    return family(message, code=code, hint=hint)


def _not_a_hub(url: str) -> RefloatError:
    return Failed(f"what answers at {url} is no Refloat hub", code="no_hub", hint="check the --url")


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    if name in ("", ".", ".."):
        raise Refused(f"{name!r} is no name", code="bad_name", hint="see `refloat target list`")
    return quote(name, safe="")


def _os_user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return name.encode("ascii", "replace").decode("ascii")
