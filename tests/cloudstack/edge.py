"""From a request's parameters to a response: the key, its rights, the published parameters, the command,
the envelope."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.cloudstack import changes, listing, misc, snapshots, vms, volumes
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import THROTTLED, UNAUTHORIZED, UNSUPPORTED, ApiError
from tests.cloudstack.jobs import Started
from tests.cloudstack.model import Key
from tests.cloudstack.params import Params
from tests.cloudstack.registry import COMMANDS, Call
from tests.cloudstack.signature import TEXT, verify

MODULES = (changes, listing, misc, snapshots, vms, volumes)  # importing them registers their commands
COMMON = {
    "command",
    "apikey",
    "signature",
    "signatureversion",
    "expires",
    "response",
    "ctxuserid",
    "sessionkey",
}
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "parameters.json").read_text())


class Edge:
    """`unpublished`: parameters and commands that no CloudStack knows; a fixture fails its test for them."""

    def __init__(self, cloud: Cloud, now: Callable[[], dt.datetime]) -> None:
        self.cloud = cloud
        self.now = now
        self.unpublished: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.limit: int | None = None  # requests until the next Clock.advance, None: not throttled
        self.spent = 0

    def answer(self, raw: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """HTTP status and body."""
        name = next((value for key, value in raw.items() if key.lower() == "command"), "")
        try:
            key = verify(raw, self.cloud.keys, self.now(), self.cloud.strict)
            envelope, body = self._run(name, raw, key)
        except ApiError as error:
            known = name in COMMANDS and error.code != UNSUPPORTED
            envelope = f"{name.lower()}response" if known else "errorresponse"
            body = {"uuidList": [], "errorcode": error.code, "cserrorcode": 4350, "errortext": error.text}
            return error.code, {envelope: body}
        return 200, {envelope: body}

    def _run(self, name: str, raw: Mapping[str, str], key: Key) -> tuple[str, dict[str, Any]]:
        self._throttle()
        commands: dict[str, Any] = PUBLISHED["commands"]
        params = Params(name, {k: v for k, v in raw.items() if k.lower() not in COMMON})
        call = Call(self.cloud, params, key, commands)
        if name not in commands or name not in COMMANDS:
            self.unpublished.append(f"command {name}" if name not in commands else f"{name}: not modelled")
            raise ApiError(UNAUTHORIZED, TEXT)  # verifyRequest knows no such command: as a wrong signature
        if not call.may(name):
            raise ApiError(
                UNSUPPORTED,
                f"The API [{name}] does not exist or is not available for the account {key.account}.",
            )
        self.requests.append((name, dict(raw)))
        self._check_published(name, params, commands[name])
        result = COMMANDS[name](call)
        if isinstance(result, Started):
            job = self.cloud.jobs.submit(name, result, key.account)
            result = result.extra | {"jobid": job.id}
        return f"{name.lower()}response", result

    def _throttle(self) -> None:
        self.spent += 1
        if self.limit is not None and self.spent > self.limit:
            raise ApiError(
                THROTTLED, "The given user has reached his/her account api limit, please retry after 1000 ms."
            )

    def _check_published(self, name: str, params: Params, spec: dict[str, Any]) -> None:
        """Unknown parameters are remembered (CloudStack ignores them); missing required ones are refused,
        431."""
        rows = {parameter.lower(): row for parameter, row in spec["parameters"].items()}
        for parameter in sorted(params.names()):
            row = rows.get(parameter)
            if row is None:
                self.unpublished.append(f"{name}: parameter {parameter}")
            elif not self._has(row.get("since")):
                self.unpublished.append(f"{name}: parameter {parameter} came with {row['since']}")
        for parameter, row in rows.items():
            if row.get("required") and parameter not in params.names():
                params.need(parameter)

    def _has(self, since: str | None) -> bool:
        """Whether this server's version knows a parameter that came with `since`."""
        numbers = [tuple(map(int, text.split(".")[:3])) for text in (self.cloud.version, since or "4.0.0")]
        return numbers[0] >= numbers[1]
