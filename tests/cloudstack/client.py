"""A small signing client for the server's own tests: every answer as it came, nothing retried."""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.cloudstack.model import Key
from tests.cloudstack.server import CloudStack
from tests.cloudstack.signature import signed


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, Any]

    @property
    def inner(self) -> dict[str, Any]:
        """What is in the one envelope."""
        (inner,) = self.body.values()
        assert isinstance(inner, dict)
        return inner

    @property
    def text(self) -> str:
        return str(self.inner.get("errortext", ""))


class Client:
    def __init__(
        self, server: CloudStack, key: Key | None = None, post: bool = False, timeout: float = 10.0
    ) -> None:
        self.server = server
        self.key = key or server.estate.admin
        self.post = post
        self.timeout = timeout

    def raw(self, params: dict[str, str]) -> Reply:
        data = urlencode(params)
        request = (
            Request(self.server.url, data.encode()) if self.post else Request(f"{self.server.url}?{data}")
        )
        try:
            with urlopen(request, timeout=self.timeout) as answer:
                return Reply(answer.status, json.loads(answer.read()))
        except HTTPError as error:
            return Reply(error.code, json.loads(error.read()))

    def call(self, command: str, **params: Any) -> Reply:
        """Keys with [ or . are given as a dict under `extra`."""
        extra = params.pop("extra", {})
        given = {"command": command, "apikey": self.key.api, "response": "json", "signatureversion": "3"}
        given["expires"] = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).strftime(
            "%Y-%m-%dT%H:%M:%S+0000"
        )
        given |= {name: str(value) for name, value in (params | extra).items()}
        given["signature"] = signed(given, self.key.secret)
        return self.raw(given)

    def job(self, command: str, **params: Any) -> dict[str, Any]:
        """Starts the job, lets virtual time pass until it ends; queryAsyncJobResult's answer."""
        reply = self.call(command, **params)
        assert reply.status == 200, reply
        self.server.jobs.finish()
        return self.call("queryAsyncJobResult", jobid=reply.inner["jobid"]).inner

    def ok(self, command: str, **params: Any) -> dict[str, Any]:
        """A job that succeeds: its one result."""
        answer = self.job(command, **params)
        assert answer["jobstatus"] == 1, answer
        result: dict[str, Any] = answer["jobresult"]
        return next((value for value in result.values() if isinstance(value, dict)), result)

    def refused(self, command: str, **params: Any) -> str:
        """A job that fails, or a call that does: its errortext."""
        reply = self.call(command, **params)
        if reply.status != 200:
            return reply.text
        self.server.jobs.finish()
        answer = self.call("queryAsyncJobResult", jobid=reply.inner["jobid"]).inner
        assert answer["jobstatus"] == 2, answer
        return str(answer["jobresult"]["errortext"])

    def list(self, command: str, **params: Any) -> list[dict[str, Any]]:
        reply = self.call(command, **params)
        assert reply.status == 200, reply
        return next((value for value in reply.inner.values() if isinstance(value, list)), [])

    # What most tests begin with.

    def deploy(self, name: str = "vm1", **params: Any) -> str:
        estate = self.server.estate
        base = {
            "serviceofferingid": estate.small.id,
            "templateid": estate.template.id,
            "zoneid": self.server.cloud.zone.id,
            "networkids": estate.management.id,
            "name": name,
        }
        return str(self.ok("deployVirtualMachine", **(base | params))["id"])

    def volume(self, name: str = "replica", gib: int = 1, offering: str | None = None) -> str:
        where = {
            "diskofferingid": offering or self.server.estate.disk.id,
            "zoneid": self.server.cloud.zone.id,
        }
        return str(self.ok("createVolume", name=name, size=gib, **where)["id"])

    def stopped(self, name: str = "vm1", **params: Any) -> str:
        vm = self.deploy(name, **params)
        self.ok("stopVirtualMachine", id=vm)
        return vm

    def root(self, vm: str) -> str:
        return str(self.list("listVolumes", virtualmachineid=vm, type="ROOT")[0]["id"])
