"""The options of `refloat guest` as records."""

from __future__ import annotations

import pytest
import typer

from refloat.cli.guest import _adapter
from refloat.standalone.tool import Adapter

OLD, NEW = "00:50:56:aa:bb:01", "52:54:00:cc:dd:02"


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        (OLD, Adapter(OLD, OLD)),
        (f"{OLD}={NEW}", Adapter(OLD, NEW)),
        (f"{OLD.upper()}={NEW.upper()},ens192", Adapter(OLD, NEW, "ens192")),
        (f"{OLD},Uplink.A_1", Adapter(OLD, OLD, "Uplink.A_1")),
        (f"{OLD}={NEW.upper()},LAN", Adapter(OLD, NEW, "LAN")),
    ],
)
def test_an_adapter_keeps_the_case_of_its_name_alone(text: str, adapter: Adapter) -> None:
    assert _adapter(text) == adapter


@pytest.mark.parametrize(
    "text", ["", "eth0", OLD[:-1], f"{OLD}=", f"{OLD},", f"{OLD},a b", f"{OLD},\u0131", f"{OLD},{'x' * 16}"]
)
def test_what_is_no_adapter_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not MAC"):
        _adapter(text)
