"""A CloudStack site: how its API is reached, and what recovered VMs get there. See docs/cloudstack.md."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from refloat.destinations.cloudstack_settings import CloudStackSettings
from refloat.estate.forms import AbsolutePath, Form, Name, SecretForm, Uuid
from refloat.secret import Opened, none_sealed


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError("an address such as https://cloud.example.org/client/api")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise ValueError("https: without it anybody between could read and change what is ordered")
    return text


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class CloudStackNetwork(Form):
    """`id` is the network's, in CloudStack."""

    id: Uuid


class CloudStackSite(Form):
    platform: Literal["cloudstack"]
    url: Annotated[str, AfterValidator(_url)]
    key: SecretForm
    secret: SecretForm
    networks: dict[Name, CloudStackNetwork] = {}
    ca_file: AbsolutePath | None = None
    project: Uuid | None = None
    offering: str = ""
    cpu_speed: Annotated[int, Field(ge=100, le=10000)] = 1000
    linux_os: str = "Other PV (64-bit)"
    windows_os: str = "Windows PV"
    longest_revert: Annotated[int, Field(ge=0)] = 0
    timeout: Annotated[int, Field(ge=1, le=600)] = 60
    job_timeout: Annotated[int, Field(ge=10)] = 4200
    patience: Annotated[int, Field(ge=1)] = 120
    settle: Annotated[float, Field(ge=0)] = 10
    poll: Annotated[float, Field(gt=0, le=60)] = 1

    @property
    def uri(self) -> str:
        return self.url

    def settings(self, opened: Opened = none_sealed) -> CloudStackSettings:
        return CloudStackSettings(
            url=self.url,
            key=self.key.record(opened),
            secret=self.secret.record(opened),
            networks={name: network.id.lower() for name, network in self.networks.items()},
            ca_file=self.ca_file or "",
            project=self.project or "",
            offering=self.offering,
            cpu_speed=self.cpu_speed,
            linux_os=self.linux_os,
            windows_os=self.windows_os,
            longest_revert=float(self.longest_revert),
            timeout=float(self.timeout),
            job_timeout=float(self.job_timeout),
            patience=float(self.patience),
            settle=float(self.settle),
            poll=float(self.poll),
        )
