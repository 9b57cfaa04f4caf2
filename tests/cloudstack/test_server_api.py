"""The API's edge: signatures, rights, parameters, faults, throttling, restarts."""

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import json
import re
from urllib.error import URLError

import pytest

from tests.cloudstack.client import Client
from tests.cloudstack.faults import Fault
from tests.cloudstack.model import Key
from tests.cloudstack.server import CloudStack
from tests.cloudstack.signature import signed


def test_a_signature_is_that_of_the_documentation() -> None:
    """CloudStack's developer guide: sorted, encoded, lower-cased, HMAC-SHA1, base64; spaces as %20, ~
    encoded."""
    params = {"response": "json", "command": "listUsers", "apiKey": "plgWJfZK4gyS3mOMTVmjUVg-X"}
    lower = "apikey=plgwjfzk4gys3momtvmjuvg-x&command=listusers&response=json"
    expected = base64.b64encode(hmac.new(b"secret", lower.encode(), hashlib.sha1).digest()).decode()
    assert signed(params, "secret") == expected
    assert (
        signed({"a": "x y~*"}, "k")
        == base64.b64encode(hmac.new(b"k", b"a=x%20y%7e*", hashlib.sha1).digest()).decode()
    )


@pytest.mark.parametrize("post", [False, True])
def test_get_and_post_are_both_served(cloudstack: CloudStack, post: bool) -> None:
    """ApiServlet: parameters in the query or in the body"""
    (zone,) = Client(cloudstack, post=post).list("listZones")
    assert zone["id"] == cloudstack.cloud.zone.id


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("apikey", "unknown"),
        ("signature", "bm90IHRydWU="),
        ("signature", None),
        ("expires", "2020-01-01T00:00:00+0000"),
        ("expires", None),
        ("expires", "tomorrow"),
    ],
)
def test_a_wrong_signature_is_401(cloudstack: CloudStack, changed: str, value: str | None) -> None:
    """ApiServer.verifyRequest: one text for every reason, expiry included"""
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    key = cloudstack.estate.admin
    params = {"command": "listZones", "apikey": key.api, "signatureversion": "3", "expires": until}
    params[changed] = value or ""
    params = {name: text for name, text in params.items() if text}
    if changed != "signature":
        params["signature"] = signed(params, key.secret)
    reply = Client(cloudstack).raw(params)
    assert reply.status == 401
    assert reply.body["listzonesresponse"]["errorcode"] == 401
    assert reply.text == "unable to verify user credentials and/or request signature"


@pytest.mark.parametrize(("version", "minutes", "status"), [("3", 10, 200), ("3", 30, 401), ("2", 10, 401)])
def test_timestamps_can_be_enforced(cloudstack: CloudStack, version: str, minutes: int, status: int) -> None:
    """enforce.post.requests.and.timestamps in ApiServer.verifyRequest"""
    cloudstack.cloud.strict = True
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    key = cloudstack.estate.admin
    params = {"command": "listZones", "apikey": key.api, "signatureversion": version, "expires": until}
    params["signature"] = signed(params, key.secret)
    assert Client(cloudstack).raw(params).status == status


def test_a_clock_that_differs_is_401(cloudstack: CloudStack) -> None:
    """facts, Async API: 401 auth or clock skew"""
    cloudstack.skew = dt.timedelta(minutes=20)
    assert Client(cloudstack).call("listZones").status == 401


def test_a_command_outside_the_role_is_432_and_not_listed(cloudstack: CloudStack) -> None:
    """DynamicRoleBasedAPIAccessChecker; ApiDiscoveryServiceImpl"""
    key = cloudstack.add_key(Key("dr", "dr-key", "dr-secret", "User", denied=frozenset({"revertSnapshot"})))
    client = Client(cloudstack, key)
    assert client.call("revertSnapshot", id="x").status == 432
    assert client.call("listHosts").status == 432
    names = {api["name"] for api in client.list("listApis")}
    assert "attachVolume" in names
    assert not names & {"revertSnapshot", "listHosts", "listStoragePools"}
    assert {"listHosts", "revertSnapshot"} <= {api["name"] for api in Client(cloudstack).list("listApis")}


def test_an_unknown_command_is_401_and_fails_the_test(cloudstack: CloudStack) -> None:
    """ApiServer.verifyRequest: a name that no class carries is answered like a wrong signature"""
    assert Client(cloudstack).call("makeCoffee").status == 401
    _not_published(cloudstack, "command makeCoffee")


def test_an_unknown_parameter_is_ignored_and_fails_the_test(cloudstack: CloudStack) -> None:
    """CloudStack ignores it; the published lists (parameters.json) do not have it"""
    assert Client(cloudstack).call("listZones", colour="blue").status == 200
    _not_published(cloudstack, "listZones: parameter colour")


def test_a_parameter_of_a_later_version_fails_the_test(cloudstack: CloudStack) -> None:
    """VolumeResponse: deleteprotection since 4.20.0"""
    client = Client(cloudstack)
    volume = client.volume()
    client.ok("updateVolume", id=volume, deleteprotection="true")
    cloudstack.cloud.version = "4.19.3.0"
    client.ok("updateVolume", id=volume, deleteprotection="true")
    _not_published(cloudstack, "updateVolume: parameter deleteprotection came with 4.20.0")


def _not_published(server: CloudStack, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        server.check()
    server.edge.unpublished.clear()


def test_a_missing_parameter_and_an_unknown_uuid_are_431(cloudstack: CloudStack) -> None:
    """ParamProcessWorker"""
    client = Client(cloudstack)
    missing = client.call("startVirtualMachine")
    assert (missing.status, missing.inner["errorcode"]) == (431, 431)
    assert "missing parameter id" in missing.text
    unknown = client.call("listVirtualMachines", id="5a1c0000-0000-4000-8000-000000000000")
    assert unknown.status == 431
    assert "entity does not exist" in unknown.text


def test_an_empty_list_is_an_empty_object(cloudstack: CloudStack) -> None:
    """ListResponse: no count, no array"""
    assert Client(cloudstack).call("listVirtualMachines").body == {"listvirtualmachinesresponse": {}}


def test_pages_and_parts_of_names(cloudstack: CloudStack) -> None:
    """BaseListCmd; ListVMsCmd: name is a part of the name"""
    client = Client(cloudstack)
    for name in ("web-1", "web-10"):
        client.deploy(name)
    assert len(client.list("listVirtualMachines", name="web-1")) == 2
    reply = client.call("listVirtualMachines", page=2, pagesize=1).inner
    assert (reply["count"], [vm["name"] for vm in reply["virtualmachine"]]) == (2, ["web-10"])


def test_throttled_until_time_passes(cloudstack: CloudStack) -> None:
    """ApiRateLimitServiceImpl: 429"""
    client = Client(cloudstack)
    cloudstack.edge.limit = 2
    statuses = [client.call("listZones").status for _ in range(3)]
    assert statuses == [200, 200, 429]
    cloudstack.advance(1)
    assert client.call("listZones").status == 200


def test_faults_by_command_and_count(cloudstack: CloudStack) -> None:
    client = Client(cloudstack)
    cloudstack.faults.add(Fault("listZones", "error", nth=2, code=503, text="maintenance"))
    assert [client.call("listZones").status for _ in range(3)] == [200, 503, 200]
    cloudstack.faults.add(Fault("*", "error", code=530, times=2))
    assert [client.call(name).status for name in ("listZones", "listHosts", "listZones")] == [530, 530, 200]
    cloudstack.faults.add(Fault("listZones", "garbage"))
    with pytest.raises(json.JSONDecodeError):
        client.call("listZones")
    cloudstack.faults.add(Fault("listZones", "page", code=502))
    with pytest.raises(json.JSONDecodeError):
        client.call("listZones")


def test_an_answer_that_does_not_come_in_time(cloudstack: CloudStack) -> None:
    """hang: carried out, and the client gives up"""
    client = Client(cloudstack, timeout=0.2)
    cloudstack.faults.add(Fault("createVolume", "hang", seconds=0.5))
    with pytest.raises(TimeoutError):
        client.volume()
    assert len(client.list("listVolumes")) == 1


def test_a_fault_of_the_model_fails_the_test(cloudstack: CloudStack) -> None:
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.cloud.volumes[client.root(vm)].pool = None
    cloudstack.cloud.volumes[client.root(vm)].offering_id = "nonsense"
    assert client.call("listVolumes").status == 530
    with pytest.raises(AssertionError, match="the model itself failed"):
        cloudstack.check()
    cloudstack.crashes.clear()


@pytest.mark.parametrize(("kind", "volumes"), [("close_before", 0), ("close_after", 1)])
def test_a_lost_answer_has_an_effect_or_none(cloudstack: CloudStack, kind: str, volumes: int) -> None:
    client = Client(cloudstack)
    cloudstack.faults.add(Fault("createVolume", kind))
    with pytest.raises((http.client.HTTPException, URLError, ConnectionError)):
        client.volume()
    cloudstack.jobs.finish()
    assert len(client.list("listVolumes")) == volumes


def test_a_restart_cuts_kept_connections(cloudstack: CloudStack) -> None:
    """A client that keeps its connection must open another after the management server's restart."""
    connection = http.client.HTTPConnection("127.0.0.1", cloudstack.port, timeout=5)
    connection.request("GET", "/client/api?command=listZones")
    assert connection.getresponse().read()
    cloudstack.restart()
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/client/api?command=listZones")
        connection.getresponse()
    connection.close()


def test_a_restart_keeps_fails_or_loses_jobs(cloudstack: CloudStack) -> None:
    """AsyncJobManagerImpl: jobs of a management server that stopped are failed at its start"""
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.jobs.hold("startVirtualMachine")
    jobs: dict[str, str] = {}
    for kind in ("keep", "fail", "lose"):
        jobs[kind] = client.call("startVirtualMachine", id=vm).inner["jobid"]
        cloudstack.restart(jobs=kind)
        reply = client.call("queryAsyncJobResult", jobid=jobs[kind])
        if kind == "keep":
            assert reply.inner["jobstatus"] == 0
            cloudstack.restart(jobs="fail")
        elif kind == "fail":
            assert reply.inner["jobstatus"] == 2
            assert "restart" in reply.inner["jobresult"]["errortext"]
        else:
            assert reply.status == 431
    assert cloudstack.cloud.vms[vm].state == "Stopped"
