from __future__ import annotations

from pathlib import Path

import pytest

from refloat.config import load_config
from refloat.errors import Refused


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text("data_dir: /a\nlisten: 127.0.0.1:1\n")
    config = load_config(file, {"REFLOAT_DATA_DIR": "/b"})
    assert (config.data_dir, config.address) == (Path("/b"), ("127.0.0.1", 1))


@pytest.mark.parametrize("text", ["colour: red\n", "- a\n", "a: [\n"])
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text(text)
    with pytest.raises(Refused, match=r"refloat\.yaml"):
        load_config(file, {})


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot read"):
        load_config(None, {"REFLOAT_CONFIG": str(tmp_path / "none")})


def test_listen_must_be_an_address() -> None:
    with pytest.raises(Refused, match="no HOST:PORT"):
        _ = load_config(None, {"REFLOAT_LISTEN": "here"}).address


def test_drivers_are_a_path_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text("drivers: /srv/virtio-win.iso\n")
    assert load_config(file, {}).drivers == Path("/srv/virtio-win.iso")
    file.write_text("data_dir: /a\n")
    assert load_config(file, {}).drivers is None


@pytest.mark.parametrize(
    "store",
    [
        "postgresql://refloat@db.example/refloat",
        "postgresql://refloat@db.example:5433/refloat?sslmode=verify-full",
        "postgresql://refloat@/refloat?host=/run/postgresql",
    ],
)
def test_a_store_in_postgresql(store: str) -> None:
    config = load_config(None, {"REFLOAT_STORE": store, "REFLOAT_STORE_PASSWORD_FILE": "/etc/refloat/pw"})
    assert (config.store, config.store_password_file) == (store, Path("/etc/refloat/pw"))


@pytest.mark.parametrize(
    "store",
    [
        "postgresql://refloat:hunter2@db.example/refloat",
        "postgresql://refloat@db.example/refloat?password=hunter2",
        "postgresql://refloat@/refloat",
        "postgresql://db.example/",
        "mysql://db.example/refloat",
        "postgresql://[/refloat",
        "/var/lib/refloat",
    ],
)
def test_a_store_with_a_password_in_it_or_of_no_use_is_refused(store: str) -> None:
    with pytest.raises(Refused, match="store") as caught:
        load_config(None, {"REFLOAT_STORE": store})
    assert caught.value.code == "bad_config" and "hunter2" not in str(caught.value.to_dict())


def test_a_password_without_a_store_is_refused() -> None:
    with pytest.raises(Refused, match="store_password_file"):
        load_config(None, {"REFLOAT_STORE_PASSWORD_FILE": "/etc/refloat/pw"})
