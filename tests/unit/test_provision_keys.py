"""Keys of a controller: made once, and put into an image where no volume can be written."""

from __future__ import annotations

from pathlib import Path

from refloat.controller.seed import OFFSET, SIZE, controller_seed
from refloat.provision import make_keys, put_keys


def test_keys_are_made_once(tmp_path: Path) -> None:
    keys = tmp_path / "target" / "keys"
    make_keys(keys)
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert set(before) == {"controller", "controller.pub", "host", "host.pub"}
    assert keys.stat().st_mode & 0o077 == 0
    make_keys(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_a_killed_making_of_keys_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / "keys.new"
    draft.mkdir()
    (draft / "controller").write_text("half a key")
    make_keys(tmp_path / "keys")
    assert "PRIVATE KEY" in (tmp_path / "keys" / "controller").read_text()
    assert not draft.exists()


def test_a_template_has_its_keys_in_the_gap(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\x01" * (OFFSET + 2 * SIZE))
    keys = tmp_path / "keys"
    make_keys(keys)
    private = (keys / "host").read_bytes()
    host_key = put_keys(image, keys)
    public = [" ".join((keys / f"{name}.pub").read_text().split()[:2]) for name in ("controller", "host")]
    assert host_key == public[1]
    content = image.read_bytes()
    assert content[OFFSET : OFFSET + SIZE] == controller_seed(public[0], private, public[1])
    assert set(content[:OFFSET] + content[OFFSET + SIZE :]) == {1}
    assert not (keys / "host").exists()
