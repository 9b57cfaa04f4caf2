"""The lab's estate file: the same form that a real estate has."""

from __future__ import annotations

from typing import Any

import yaml

from refloat.lab.layout import CONTROLLER_ADDRESS, MANAGEMENT_SUBNET, SOURCE_SUBNET, Lab

TARGET = "lab-web"
SYSTEM_SERIAL = "rf-lab-web-sda"
DATA_SERIAL = "rf-lab-web-sdb"

_HEADER = "# Made by `refloat lab up`. A real estate is described in the same form: see docs/estate.md.\n"


def render_estate(lab: Lab, host_key: str) -> str:
    estate: dict[str, Any] = {
        "version": 1,
        "sites": {
            "lab-source": {"platform": "libvirt", "uri": lab.uri},
            "lab-recovery": {"platform": "libvirt", "uri": lab.uri, "networks": _networks()},
        },
        "mappings": [{"from": SOURCE_SUBNET, "to": "production", "test": "bubble"}],
        "policies": {
            "lab": {
                "shutdown_deadline": 120,
                "report_deadline": 420,
                "probes": [{"port": 22, "expect": "SSH-2.0-"}],
            }
        },
        "protected": {"lab-web": {"site": "lab-source", "vm": lab.source_vm, "policy": "lab"}},
        "targets": {
            TARGET: {
                "protected": "lab-web",
                "site": "lab-recovery",
                "controller": {
                    "vm": lab.controller_vm,
                    "address": CONTROLLER_ADDRESS,
                    "identity": str(lab.keys / "controller"),
                    "host_key": host_key,
                },
                "disks": {"sda": SYSTEM_SERIAL, "sdb": DATA_SERIAL},
            }
        },
    }
    return _HEADER + yaml.safe_dump(estate, sort_keys=False)


def _networks() -> dict[str, Any]:
    return {
        "production": {"kind": "user", "subnet": SOURCE_SUBNET},
        "bubble": {"kind": "user", "subnet": SOURCE_SUBNET, "isolated": True},
        "management": {"kind": "user", "subnet": MANAGEMENT_SUBNET},
    }


def render_config(lab: Lab) -> str:
    settings = {"data_dir": str(lab.hub_data), "listen": lab.listen, "estate": str(lab.estate)}
    return _HEADER.replace("estate is", "hub is") + yaml.safe_dump(settings, sort_keys=False)
