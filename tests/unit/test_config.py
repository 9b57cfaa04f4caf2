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
