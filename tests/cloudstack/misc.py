"""Jobs, tags, limits, configuration, the console, and what the API says of itself."""

from typing import Any

from tests.cloudstack.answers import template_answer
from tests.cloudstack.errors import refuse
from tests.cloudstack.jobs import Job, Started, Work
from tests.cloudstack.model import Tag, Template
from tests.cloudstack.registry import COMMANDS, Answer, Call, command, listing

LIMITS = {
    "user_vm": 0, "public_ip": 1, "volume": 2, "snapshot": 3, "template": 4, "project": 5, "network": 6,
    "vpc": 7, "cpu": 8, "memory": 9, "primary_storage": 10, "secondary_storage": 11,
}  # fmt: skip
TAGGED = {"userVm": "vms", "virtualmachine": "vms", "volume": "volumes", "snapshot": "snapshots"}


@command("queryAsyncJobResult")
def query_job(call: Call) -> Answer:
    identity = call.p.need("jobid")
    job = call.cloud.jobs.all.get(identity)
    if job is None or identity in call.cloud.jobs.lost:
        raise call.p.invalid("jobid", identity)
    return job_answer(job)


def job_answer(job: Job) -> Answer:
    answer: Answer = {
        "jobid": job.id,
        "cmd": f"org.apache.cloudstack.api.command.{job.command[0].upper()}{job.command[1:]}Cmd",
        "jobstatus": job.status,
        "jobprocstatus": 0,
        "jobresultcode": job.code,
        "jobinstancetype": job.started.kind,
        "jobinstanceid": job.started.instance,
        "account": job.account,
        "created": "2026-01-01T00:00:00+0000",
    }
    if not job.open:
        answer |= {
            "jobresulttype": "object",
            "jobresult": job.result,
            "completed": "2026-01-01T00:00:01+0000",
        }
    return answer


@command("listAsyncJobs")
def list_jobs(call: Call) -> Answer:
    """Only jobs that are still pending (QueryManagerImpl.searchForAsyncJobs)."""
    rows = [job_answer(job) for job in call.cloud.jobs.pending() if job.id not in call.cloud.jobs.lost]
    return listing("asyncjobs", rows, call)


@command("listApis")
def list_apis(call: Call) -> Answer:
    name = call.p.get("name")
    rows: list[Answer] = [
        {
            "name": item,
            "isasync": spec["async"],
            "params": [_param(*row) for row in spec["parameters"].items()],
        }
        for item, spec in sorted(call.published.items())
        if call.may(item) and item in COMMANDS and name in (None, item)
    ]
    if name is not None and not rows:
        raise refuse(f"The API [{name}] does not exist or is not available for the account")
    return listing("api", rows, call)


def _param(name: str, spec: dict[str, Any]) -> Answer:
    return {"name": name, "required": spec.get("required", False)}


@command("listCapabilities")
def capabilities(call: Call) -> Answer:
    return {
        "capability": {
            "cloudstackversion": call.cloud.version,
            "securitygroupsenabled": False,
            "kvmsnapshotenabled": call.cloud.configuration["kvm.snapshot.enabled"] == "true",
            "customdiskofferingminsize": 1,
            "customdiskofferingmaxsize": 1024,
            "apilimitinterval": 1,
            "apilimitmax": 25,
        }
    }


@command("listConfigurations")
def configurations(call: Call) -> Answer:
    name = call.p.get("name")
    rows = [
        {"name": key, "value": value}
        for key, value in call.cloud.configuration.items()
        if name in (None, key) and (call.p.get("keyword") or "") in key
    ]
    return listing("configuration", rows, call)


@command("createTags")
def create_tags(call: Call) -> Started:
    """Synchronously wrong parameters, then a job; a key that a resource already has fails it (the key is
    unique)."""
    cloud, kind, ids = call.cloud, call.p.need("resourcetype"), call.p.words("resourceids")
    pairs = [(group["key"], group.get("value", "")) for group in call.p.groups("tags")]

    def work() -> Work:
        _resources(call, kind, ids)
        held = {(tag.resource_id, tag.key) for tag in cloud.tags}
        for resource in ids:
            for key, _ in pairs:
                if (resource, key) in held:
                    raise refuse(f"tag {key} already on {kind} with id {resource}")
        yield 1.0
        cloud.tags += [Tag(kind, resource, key, value) for resource in ids for key, value in pairs]
        cloud.note("createTags", ids[0])
        return {"success": True}

    return Started(work(), None, "None", "")


@command("deleteTags")
def delete_tags(call: Call) -> Started:
    cloud, kind, ids = call.cloud, call.p.need("resourcetype"), call.p.words("resourceids")
    groups = call.p.groups("tags")

    def work() -> Work:
        _resources(call, kind, ids)
        yield 1.0
        cloud.tags = [
            tag
            for tag in cloud.tags
            if tag.resource_id not in ids
            or (
                groups
                and not any(g.get("key") == tag.key and g.get("value") in (None, tag.value) for g in groups)
            )
        ]
        return {"success": True}

    return Started(work(), None, "None", "")


def _resources(call: Call, kind: str, ids: list[str]) -> None:
    name = next((value for key, value in TAGGED.items() if key.lower() == kind.lower()), None)
    if name is None:
        raise refuse(f"Invalid resource type: {kind}")
    for identity in ids:
        if identity not in getattr(call.cloud, name):
            raise refuse(f"Unable to find resource by id {identity} and type {kind}")


@command("listTags")
def list_tags(call: Call) -> Answer:
    p = call.p
    rows = [
        {"key": tag.key, "value": tag.value, "resourcetype": tag.resource_type, "resourceid": tag.resource_id}
        for tag in call.cloud.tags
        if (p.get("resourcetype") or tag.resource_type).lower() == tag.resource_type.lower()
        and p.get("resourceid") in (None, tag.resource_id)
        and p.get("key") in (None, tag.key)
        and p.get("value") in (None, tag.value)
    ]
    return listing("tag", rows, call)


@command("listResourceLimits")
def resource_limits(call: Call) -> Answer:
    wanted = call.p.whole("resourcetype")
    rows = [
        {"resourcetype": str(number), "resourcetypename": name, "max": call.cloud.limits.get(name, -1)}
        for name, number in LIMITS.items()
        if wanted in (None, number)
    ]
    return listing("resourcelimit", rows, call)


@command("updateResourceCount")
def resource_count(call: Call) -> Answer:
    call.p.need("domainid")
    wanted = call.p.whole("resourcetype")
    rows = [
        {"resourcetype": str(number), "resourcetypename": name, "resourcecount": call.cloud.used(name)}
        for name, number in LIMITS.items()
        if wanted in (None, number)
    ]
    return listing("resourcecount", rows, call)


@command("createConsoleEndpoint")
def console(call: Call) -> Answer:
    vm = call.cloud.vm(call.p, "virtualmachineid")
    if vm.state != "Running":
        return {
            "consoleendpoint": {
                "success": False,
                "details": f"VM {vm.name} must be running to connect console",
            }
        }
    url = f"http://127.0.0.1/resource/noVNC/vnc.html?token={vm.id}"
    return {"consoleendpoint": {"success": True, "url": url}}


COUNTED = {"vm": "user_vm", "volume": "volume", "snapshot": "snapshot", "cpu": "cpu", "memory": "memory",
           "primarystorage": "primary_storage"}  # fmt: skip


@command("listAccounts")
def accounts(call: Call) -> Answer:
    """The caller's account, with what it may still use: numbers as text, "Unlimited" without a limit."""
    cloud = call.cloud
    row: Answer = {
        "id": call.key.account,
        "name": call.key.account,
        "domainid": cloud.domain,
        "roletype": call.key.role,
        "rolename": call.key.role,
        "accounttype": {"User": 0, "Admin": 1, "DomainAdmin": 2}[call.key.role],
        "state": "enabled",
    }
    for field, resource in COUNTED.items():
        limit, used = cloud.limits.get(resource, -1), cloud.used(resource)
        row[f"{field}limit"] = "Unlimited" if limit < 0 else str(limit)
        row[f"{field}total"] = used
        row[f"{field}available"] = "Unlimited" if limit < 0 else str(limit - used)
    shown = call.p.get("name") in (None, call.key.account)
    return listing("account", [row] if shown else [], call)


@command("listProjects")
def projects(call: Call) -> Answer:
    return listing("project", [], call)


@command("registerTemplate")
def register_template(call: Call) -> Answer:
    """Answers at once; the image is downloaded later (isready), and can't be deployed from before."""
    cloud, p = call.cloud, call.p
    if (p.get("zoneid") is None) == (p.get("zoneids") is None):
        raise refuse("Either zoneid or zoneids is required. Both cannot be null.")
    if not p.need("url").startswith(("http://", "https://")):
        raise refuse(f"Unsupported scheme for url: {p.get('url')}")
    if p.need("format").upper() not in ("QCOW2", "RAW"):
        raise refuse(f"The format {p.get('format')} is not supported by KVM")
    fallback = next(iter(cloud.os_types))
    os_type = cloud.find(cloud.os_types, p, "ostypeid", required=False)
    template = Template(p.need("name"), os_type=os_type.id if os_type else fallback, ready=False)
    template.details = dict(p.groups("details")[0]) if p.groups("details") else {}
    template.available = cloud.clock.now + 30
    cloud.templates[template.id] = template
    return listing("template", [template_answer(cloud, template)], call)
