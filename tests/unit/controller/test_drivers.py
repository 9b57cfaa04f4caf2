"""Driver files on their way into the controller: checked one by one, kept by their list, never half there."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.controller.kept_drivers import kept, list_hash, unpack
from refloat.controller.paths import Paths
from refloat.errors import Failed, Refused
from refloat.model import DriverFile
from tests.unit.sync.rig import Rig

CONTENTS = {"viostor/viostor.sys": b"MZ" * 5000, "NetKVM/netkvm.inf": b"[Version]\r\n"}


def files_of(contents: dict[str, bytes]) -> tuple[DriverFile, ...]:
    return tuple(
        DriverFile(path, len(content), hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    )


FILES = files_of(CONTENTS)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_they_are_sent_once_and_kept(rig: Rig) -> None:
    asked = []

    def contents() -> dict[str, bytes]:
        asked.append(1)
        return CONTENTS

    folder = Path(rig.controller.drivers(FILES, contents))
    found = {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    assert found == CONTENTS
    assert rig.controller.drivers(FILES[::-1], contents) == str(folder)
    assert asked == [1]
    assert sorted(one.name for one in folder.parent.iterdir()) == sorted([folder.name, "lock"])


def test_another_choice_replaces_the_one_before(rig: Rig) -> None:
    first = Path(rig.controller.drivers(FILES, lambda: CONTENTS))
    other = {"vioscsi/vioscsi.sys": b"MZ"}
    second = Path(rig.controller.drivers(files_of(other), lambda: other))
    assert second.is_dir() and not first.exists()


def test_what_is_not_what_was_chosen_never_gets_there(rig: Rig) -> None:
    for wrong in (
        {**CONTENTS, "viostor/viostor.sys": b"MZ" * 4999 + b"!!"},
        {**CONTENTS, "viostor/more.sys": b""},
        {"viostor/viostor.sys": CONTENTS["viostor/viostor.sys"]},
    ):
        with pytest.raises(Failed) as caught:
            rig.controller.drivers(FILES, lambda wrong=wrong: wrong)  # type: ignore[misc]
        assert caught.value.code == "drivers_damaged" and caught.value.hint
    assert [one.name for one in (rig.link.root / "drivers").iterdir()] == ["lock"]


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "a/../../b", "a//b", ".hidden", "a/b\n"])
def test_names_that_lead_elsewhere(tmp_path: Path, path: str) -> None:
    paths = Paths(str(tmp_path / "root"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(path, b"x")
    name = "a" * 64
    Path(paths.drivers, f"{name}.zip").write_bytes(buffer.getvalue())
    with pytest.raises(Failed) as caught:
        unpack(paths, files_of({path: b"x"}), name)
    assert caught.value.code == "drivers_damaged"
    assert not list(Path(paths.drivers).iterdir())


def test_a_run_that_was_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "root"))
    Path(paths.drivers, f"{list_hash(FILES)}.draft").mkdir()
    assert kept(paths, FILES) == ""


def test_too_little_room_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paths, "free", lambda self: 64 << 20)
    with pytest.raises(Refused) as caught:
        kept(Paths(str(tmp_path / "root")), FILES)
    assert caught.value.code == "no_space" and caught.value.hint


def test_an_archive_is_named_by_a_hash(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        unpack(Paths(str(tmp_path / "root")), FILES, "../x")
