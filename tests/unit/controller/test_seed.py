"""The seed of a controller: what the hub writes and what the image's own script makes of it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from refloat.controller.seed import MAGIC, OFFSET, SIZE, controller_seed, render_seed, static_network
from refloat.errors import Refused
from refloat.lab import recipes


def unpacker() -> str:
    """The script as the image's recipe writes it."""
    recipe = recipes.script("controller.sh").read_text()
    found = re.search(r"cat >/usr/local/sbin/refloat-seed <<'END'\n(.*?)\nEND\n", recipe, re.DOTALL)
    assert found
    return found.group(1)


def unpack(disk: Path, root: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs it on a file instead of the controller's disk, into a directory instead of /."""
    script = unpacker()
    for old, new in (
        ("root=$(readlink -f \"/sys/dev/block/$(stat -c '%Hd:%Ld' /)\")\ndisk=${root%/*}\n", ""),
        ('"/dev/${disk##*/}"', f"'{disk}'"),
        ("-C / ", f"-C '{root}' "),
        ("/run/", f"{root}/"),
        ("\nsync\n", "\n"),
    ):
        assert old in script, old
        script = script.replace(old, new)
    return subprocess.run(["sh", "-c", script], capture_output=True, check=False)


def disk(tmp_path: Path, seed: bytes) -> Path:
    file = tmp_path / "disk"
    file.write_bytes(os.urandom(OFFSET) + seed + os.urandom(SIZE))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for folder in ("root/.ssh", "etc/ssh", "etc/systemd/network"):
        (made / folder).mkdir(parents=True)
    return made


def test_the_image_unpacks_what_the_hub_wrote(tmp_path: Path, root: Path) -> None:
    network = static_network("10.0.0.5/24", "10.0.0.1")
    seed = controller_seed("ssh-ed25519 AAAA hub", b"host\nkey\n", "ssh-ed25519 BBBB", network)
    assert len(seed) == SIZE
    done = unpack(disk(tmp_path, seed), root)
    assert (done.returncode, done.stderr) == (0, b"")
    key = root / "etc/ssh/ssh_host_ed25519_key"
    assert key.read_bytes() == b"host\nkey\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    accepted = root / "root/.ssh/authorized_keys"
    assert accepted.read_text() == "ssh-ed25519 AAAA hub\n"
    assert stat.S_IMODE(accepted.stat().st_mode) == 0o600
    written = (root / "etc/systemd/network/05-refloat.network").read_text()
    assert "Address=10.0.0.5/24\nGateway=10.0.0.1\n" in written and "DHCP=no" in written


@pytest.mark.parametrize("gap", [b"\0" * SIZE, b"GRUB" * (SIZE // 4)])
def test_a_disk_without_a_seed_is_left_alone(tmp_path: Path, root: Path, gap: bytes) -> None:
    done = unpack(disk(tmp_path, gap), root)
    assert done.returncode == 0
    assert not list((root / "etc/ssh").iterdir())


def test_a_damaged_seed_is_not_used(tmp_path: Path, root: Path) -> None:
    seed = bytearray(controller_seed("k", b"host", "p"))
    seed[600] ^= 1
    assert unpack(disk(tmp_path, bytes(seed)), root).returncode != 0
    assert not list((root / "etc/ssh").iterdir())


def test_too_much_is_refused() -> None:
    with pytest.raises(Refused):
        render_seed({"/a": (b"\0" * SIZE, 0o600)})


def test_hub_and_image_look_at_the_same_place() -> None:
    script = unpacker()
    assert f"bs={SIZE} skip={OFFSET // SIZE} count=1" in script and MAGIC in script
    assert OFFSET % SIZE == 0
    assert f"lt $((start / 2 - {512}))" in recipes.script("disk.sh").read_text()
