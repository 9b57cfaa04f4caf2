"""A vSphere site in the estate file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from refloat.errors import Refused
from refloat.estate import load_estate
from refloat.estate.vsphere import VsphereSite
from refloat.lab.estate import render_estate
from refloat.lab.layout import Lab
from refloat.platforms import Platforms
from refloat.sources.vsphere import VsphereSource

SITE: dict[str, Any] = {
    "platform": "vsphere",
    "server": "vcenter.example.org",
    "user": "refloat@vsphere.local",
    "password": {"file": "/etc/refloat/vcenter"},
    "thumbprint": "AA:" * 31 + "AA",
    "reader": ["nbdkit", "--unix", "{socket}", "vddk", "user={user}", "file={disk}"],
}


def written(directory: Path, **changes: Any) -> Path:
    path = directory / "estate.yaml"
    data = yaml.safe_load(render_estate(Lab(directory=directory), "ssh-ed25519 AAAA"))
    site = {**SITE, **changes}
    data["sites"]["lab-source"] = {key: value for key, value in site.items() if value is not None}
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_sealed_password(tmp_path: Path) -> None:
    estate = load_estate(written(tmp_path, password={"sealed": "vcenter"}))
    form = estate.sites["lab-source"]
    assert isinstance(form, VsphereSite)
    asked: list[str] = []

    def opened(name: str) -> str:
        asked.append(name)
        return "hush"

    password = form.settings(opened).password
    assert str(password) == "the sealed secret vcenter" and not asked
    assert password.read() == "hush" and asked == ["vcenter"]
    assert estate.users_of("vcenter") == ["lab-source"] and estate.users_of("another") == []
    with pytest.raises(Refused, match="the hub's"):
        form.settings().password.read()


def test_a_source_site(tmp_path: Path) -> None:
    estate = load_estate(written(tmp_path))
    form = estate.sites["lab-source"]
    assert isinstance(form, VsphereSite)
    settings = form.settings()
    assert settings.thumbprint == "aa" * 32 and form.uri == "vsphere://vcenter.example.org:443"
    assert "password" not in repr(settings)
    assert isinstance(Platforms(estate, tmp_path).source("lab-source"), VsphereSource)
    with pytest.raises(Refused) as caught:
        Platforms(estate, tmp_path).destination("lab-source")
    assert caught.value.code == "source_only"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"password": "plain"}, "sites.lab-source.password"),
        ({"password": {"file": "/a", "env": "B"}}, "sites.lab-source.password"),
        ({"password": {"file": "/a", "sealed": "b"}}, "sites.lab-source.password"),
        ({"password": {}}, "sites.lab-source.password"),
        ({"password": {}}, "sites.lab-source.password"),
        ({"password": {"value": "plain"}}, "sites.lab-source.password"),
        ({"password": None}, "sites.lab-source.password"),
        ({"thumbprint": "AA:BB"}, "sites.lab-source.thumbprint"),
        ({"ca_file": "/ca.pem"}, "sites.lab-source"),
        ({"server": "https://vcenter/sdk"}, "sites.lab-source.server"),
        ({"reader": ["nbdkit", "{sokcet}"]}, "sites.lab-source.reader"),
        ({"reader": ["nbdkit", "{password}", "{socket}"]}, "sites.lab-source.reader"),
        ({"reader": ["nbdkit"]}, "sites.lab-source.reader"),
        ({"reader": ["nbdkit", "{socket.__class__}"]}, "sites.lab-source.reader"),
        ({"networks": {"a": "b"}}, "sites.lab-source.networks"),
        ({"port": 0}, "sites.lab-source.port"),
        ({"quiesce": "sometimes"}, "sites.lab-source.quiesce"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    with pytest.raises(Refused) as caught:
        load_estate(written(tmp_path, **change))
    assert f"{place}" in caught.value.message and "plain" not in caught.value.message
