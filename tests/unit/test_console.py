"""What a console shows: pictures of real machines to lines, lines to states, states to evidence."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refloat.console import UNKNOWN, read_lines
from refloat.console_png import BadPicture, Pixels, is_plain, read_png
from refloat.console_states import BY_NAME, LONGEST, STATES, Meaning, SerialText, recognise
from refloat.console_watch import MOST_ORDINARY, MOST_SIGHTS, Watch
from refloat.destinations.libvirt_console import png_from_ppm
from refloat.model import Findings, Mode, Sight
from refloat.run import Run
from tests.unit.fakes import World, make_world

SCREENS = Path(__file__).parents[1] / "golden" / "console"
# The screens of real machines under QEMU: SeaBIOS, iPXE, OVMF, GRUB 2.06, Debian 12.
SEEN = {
    "nothing-to-boot": ("no-boot-device", "No bootable device."),
    "network-boot": ("no-boot-device", "Nothing to boot: No such file or directory"),
    "panic": (
        "kernel-panic",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    ),
    "uefi-shell": ("uefi-shell", "Shell>"),
    "uefi-characters": ("uefi-shell", "Shell>"),
    "grub-shell": ("grub-shell", "grub>"),
    "grub-rescue": ("grub-rescue", "error: no such partition.; grub rescue>"),
    "initramfs-shell": (
        "initramfs-shell",
        "ALERT!  UUID=00000000-1111-4222-8333-444455556666 does not exist.",
    ),
    "emergency-shell": ("emergency-shell", "Cannot open access to console, the root account is locked."),
    "login": ("login", "debian12-ext4-ifupdown login:"),
    "grub-menu": ("grub-menu", "GNU GRUB  version 2.06"),
    "loader": ("booting", "Loading initial ramdisk ..."),
    "booting": ("booting", "Attached SCSI disk"),
    "characters": (None, ""),
}


def screen(name: str) -> bytes:
    return (SCREENS / f"{name}.png").read_bytes()


def test_every_picture_has_its_expectation() -> None:
    assert {file.stem for file in SCREENS.glob("*.png")} == set(SEEN)
    assert {file.stem for file in SCREENS.glob("*.txt")} == set(SEEN)


@pytest.mark.parametrize("name", SEEN)
def test_a_real_screen_is_read_to_the_letter(name: str) -> None:
    lines = read_lines(read_png(screen(name)))
    assert "\n".join(lines).rstrip("\n") + "\n" == (SCREENS / f"{name}.txt").read_text()
    assert name == "grub-menu" or not any(UNKNOWN in line for line in lines)  # it has a frame
    found = recognise(lines)
    wanted, words = SEEN[name]
    assert (found.state.name if found else None) == wanted
    assert words in (found.words if found else "")


def test_all_characters_of_ascii() -> None:
    chart = "".join(read_lines(read_png(screen("characters"))))
    assert "".join(map(chr, range(0x21, 0x7F))) in chart


def repainted(pixels: Pixels, ink: bytes, paper: bytes) -> Pixels:
    """In two other colours."""
    return Pixels(
        pixels.width,
        pixels.height,
        len(ink),
        tuple(b"".join(ink if dot else paper for dot in row) for row in pixels.rows),
    )


@pytest.mark.parametrize(
    ("ink", "paper"), [(b"\xff\xff\xff", b"\0\0\xaa"), (b"\0", b"\x07"), (b"\xaa\0\0\xff", b"\0\0\0\0")]
)
def test_colours_do_not_matter(ink: bytes, paper: bytes) -> None:
    pixels = read_png(screen("login"))
    assert set(itertools.chain.from_iterable(pixels.rows)) == {0, 1}
    assert read_lines(repainted(pixels, ink, paper)) == read_lines(pixels)


def test_a_cursor_hides_no_letter() -> None:
    pixels = read_png(screen("login"))
    rows = list(pixels.rows)
    line = next(place for place, text in enumerate(read_lines(pixels)) if text.endswith("login:"))
    for row in (line * 16 + 13, line * 16 + 14):
        rows[row] = bytes([1]) * 9 + rows[row][9:]  # under its first letter
    assert read_lines(Pixels(720, 400, 1, tuple(rows))) == read_lines(pixels)


def test_what_is_no_console_has_no_lines() -> None:
    checks = tuple(bytes((x // 40 + y // 40) % 2 for x in range(640)) for y in range(480))
    assert recognise(read_lines(Pixels(640, 480, 1, checks))) is None
    black = Pixels(640, 480, 1, (bytes(640),) * 480)
    assert read_lines(black) == () and is_plain(black) and not is_plain(Pixels(640, 480, 1, checks))
    assert read_lines(Pixels(3, 2, 1, (b"abc", b"abc"))) == ()


@given(st.data())
def test_any_pixels_are_lines(data: st.DataObject) -> None:
    width, height = data.draw(st.sampled_from([(720, 16), (8, 16), (17, 33), (24, 40)]))
    rows = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=height, max_size=height))
    recognise(read_lines(Pixels(width, height, 1, tuple(rows))))


# ---------------------------------------------------------------- PNG


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + bytes(4)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@given(
    st.lists(st.tuples(st.integers(0, 4), st.binary(min_size=12, max_size=12)), min_size=1, max_size=6),
)
def test_every_filter_is_taken_back(rows: list[tuple[int, bytes]]) -> None:
    """Filtered here by the letter of the specification, on 4 pixels of 3 bytes."""
    packed, above = b"", bytes(12)
    for kind, row in rows:
        line = bytearray()
        for place, value in enumerate(row):
            left = row[place - 3] if place >= 3 else 0
            corner = above[place - 3] if place >= 3 else 0
            guess = left + above[place] - corner
            nearest = min((left, above[place], corner), key=lambda other, guess=guess: abs(guess - other))  # type: ignore[misc]
            line.append((value - (0, left, above[place], (left + above[place]) // 2, nearest)[kind]) & 255)
        packed += bytes([kind]) + bytes(line)
        above = row
    pixels = read_png(png(4, len(rows), 8, 2, zlib.compress(packed)))
    assert pixels.rows == tuple(row for _, row in rows)


def test_the_platforms_own_pictures_are_read() -> None:
    ppm = b"P6\n2 1\n255\n" + b"\1\2\3\4\5\6"
    assert read_png(png_from_ppm(ppm)) == Pixels(2, 1, 3, (b"\1\2\3\4\5\6",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + bytes(99),
        png(0, 5, 8, 2, b""),
        png(60000, 60000, 8, 2, zlib.compress(b"")),
        png(8000, 8000, 8, 2, zlib.compress(bytes(100))),
        png(4, 4, 16, 2, zlib.compress(bytes(999))),
        png(4, 4, 8, 9, zlib.compress(bytes(999))),
        png(4, 4, 8, 2, b"no zlib"),
        png(4, 4, 8, 2, zlib.compress(bytes(7))),
        png(1, 1, 8, 2, zlib.compress(b"\x09abc")),
        png(4, 4, 8, 2, zlib.compress(bytes(52)))[:50],
    ],
)
def test_a_bad_picture_is_said_to_be_one(data: bytes) -> None:
    with pytest.raises(BadPicture):
        read_png(data)


def test_a_bomb_is_not_unpacked() -> None:
    """64 MiB of zeros in 64 KiB: only what the header promises is taken."""
    assert read_png(png(2, 2, 8, 2, zlib.compress(bytes(64 << 20)))).rows == (bytes(6), bytes(6))


@given(st.binary(max_size=400))
@example(screen("login")[:200])
def test_any_bytes_are_a_picture_or_a_plain_error(data: bytes) -> None:
    for content in (data, b"\x89PNG\r\n\x1a\n" + data):
        with contextlib.suppress(BadPicture):
            read_png(content)


# ---------------------------------------------------------------- states

LINES: dict[str, tuple[Sequence[str], str | None, str]] = {
    "nothing": ([], None, ""),
    "plain text": (["hello", "world"], None, ""),
    "dracut": (
        [
            "Warning: /dev/disk/by-uuid/1234 does not exist",
            "",
            "Entering emergency mode. Exit the shell to continue.",
            "dracut:/#",
        ],
        "initramfs-shell",
        "Warning: /dev/disk/by-uuid/1234 does not exist; dracut:/#",
    ),
    "a mount that failed": (
        [
            "[FAILED] Failed to mount srv-data.mount - /srv/data.",
            "[  OK  ] Started something else.",
            "You are in emergency mode. After logging in, type",
            "Give root password for maintenance",
            "(or press Control-D to continue):",
        ],
        "emergency-shell",
        "[FAILED] Failed to mount srv-data.mount - /srv/data.; Give root password for maintenance",
    ),
    "the kernel goes on while a shell waits": (
        ["Give root password for maintenance", "[   61.123456] random: crng init done"],
        "emergency-shell",
        "Give root password",
    ),
    "fsck": (
        ["/dev/vda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.", "fsck exited with status code 4"],
        "fsck",
        "fsck exited with status code 4",
    ),
    "a login after trouble": (["You are in emergency mode.", "web login: "], "login", "web login:"),
    "no login": (["web login: root", "Password:"], None, ""),
    "trouble after a login": (
        ["web login:", "[ 9.123456] Kernel panic - not syncing: Attempted to kill init!"],
        "kernel-panic",
        "Kernel panic - not syncing: Attempted to kill init!",
    ),
    "GRUB's menu": (["   GNU GRUB  version 2.06", "*Debian GNU/Linux"], "grub-menu", "GNU GRUB"),
    "a boot sector of Windows": (
        ["BOOTMGR is missing", "Press Ctrl+Alt+Del to restart"],
        "no-loader",
        "BOOTMGR is missing",
    ),
    "OVMF": (
        ['BdsDxe: failed to load Boot0001 "UEFI Misc Device": Not Found', "Shell> "],
        "uefi-shell",
        "BdsDxe: failed to load Boot0001",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_words_to_states(case: str) -> None:
    lines, wanted, words = LINES[case]
    found = recognise(lines)
    assert (found.state.name if found else None) == wanted
    assert words in (found.words if found else "")


def test_every_state_says_where_its_words_come_from() -> None:
    assert all(state.source and state.says for state in STATES)
    for state in STATES:
        same = BY_NAME[state.name]
        assert (state.says, state.meaning, state.lasting) == (same.says, same.meaning, same.lasting)
        assert state.blanks is same.blanks


@given(st.lists(st.text(max_size=300), max_size=10))
@example(["Kernel panic - not syncing: \x1b[2J\u202e" + "x" * 999])
def test_hostile_words_are_bounded_and_harmless(lines: list[str]) -> None:
    found = recognise(lines)
    if found:
        assert len(found.words) <= LONGEST and found.words.isprintable()


def test_a_serial_line_with_colours_and_in_pieces() -> None:
    text = SerialText()
    assert (
        recognise(text.feed(b"\x1b[2J\x1b[01;01HLoading Linux 6.1 ...\r\n\x1b[0;1;31mKernel pa")) is not None
    )
    found = recognise(text.feed(b"nic - not syncing: no init\r\n"))
    assert found and found.words == "Kernel panic - not syncing: no init"
    login = recognise(text.feed(b"\x1b[?2004h\rweb login: "))
    assert login and login.state.meaning is Meaning.UP
    text.feed(b"x" * 100_000)
    assert recognise(text.feed(b"")) is None


# ---------------------------------------------------------------- over time


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


class Looker:
    """Takes pictures, and tells what is known of the console then."""

    def __init__(self, world: World) -> None:
        self.destination = world.destination
        self.run: Run = world.run(world.store.create_job("web", Mode.PLANNED).id)

    def __call__(self, picture: bytes) -> tuple[Sight, ...]:
        self.destination.picture = picture
        Watch(self.run).look("boot")
        return (self.run.load("findings", Findings) or Findings()).console

    @property
    def folder(self) -> Path:
        return self.run.directory / "screens"


@pytest.fixture
def watch(world: World) -> Looker:
    return Looker(world)


BLANK = png(16, 16, 8, 0, zlib.compress((b"\0" + bytes(16)) * 16))
OTHER = screen("characters")


def states(sights: Sequence[Sight]) -> list[str]:
    return [sight.state for sight in sights]


def test_each_change_is_noted_once_with_its_picture(watch: Looker) -> None:
    for name in ("loader", "booting", "booting", "initramfs-shell"):
        sights = watch(screen(name))
    assert states(sights) == ["booting", "initramfs-shell"]
    assert [sight.picture.partition("-")[2] for sight in sights] == ["booting.png", "initramfs-shell.png"]
    assert (watch.folder / sights[1].picture).read_bytes() == screen("initramfs-shell")


def test_a_blanked_screen_changes_nothing_and_another_one_does(
    watch: Looker,
) -> None:
    watch(screen("emergency-shell"))
    assert states(watch(BLANK)) == ["emergency-shell"]
    assert states(watch(b"no picture")) == ["emergency-shell"]
    assert states(watch(OTHER)) == ["emergency-shell", ""]
    assert states(watch(screen("login"))) == ["emergency-shell", "", "login"]


def test_a_black_screen_after_the_firmwares_words_means_that_it_went_on(watch: Looker) -> None:
    """A system without any console on its screen: the firmware's last words must not stand against it."""
    watch(screen("nothing-to-boot"))
    assert states(watch(BLANK)) == ["no-boot-device", ""]
    assert states(watch(BLANK)) == ["no-boot-device", ""]


def test_pictures_and_changes_are_bounded(watch: Looker) -> None:
    for turn in range(MOST_SIGHTS + 10):
        sights = watch(screen("panic") if turn % 2 else screen("login"))
    assert len(sights) == MOST_SIGHTS and states(sights[-2:]) == ["login", "kernel-panic"]
    for turn in range(MOST_ORDINARY + 10):  # of another second each: their names are told apart by it
        (watch.folder / f"{turn:06}-boot.png").write_bytes(screen("booting"))
    watch(screen("panic"))
    assert len(list(watch.folder.glob("*-boot.png"))) == MOST_ORDINARY
    assert (
        len(list(watch.folder.glob("*-login.png"))) == len(list(watch.folder.glob("*-kernel-panic.png"))) == 1
    )


def test_what_the_serial_line_said(world: World) -> None:
    run = world.run(world.store.create_job("web", Mode.PLANNED).id)
    watch = Watch(run)
    for part in (b"[    0.000000] Linux version 6.1\r\n", b"[    0.1234", b"56] x\r\n", b"Shell> "):
        watch.heard(part)
    sights = (run.load("findings", Findings) or Findings()).console
    assert [(sight.where, sight.state) for sight in sights] == [
        ("serial", "booting"),
        ("serial", "uefi-shell"),
    ]
    watch.reported()
    watch.reported()
    sights = (run.load("findings", Findings) or Findings()).console
    assert [sight.state for sight in sights] == ["booting", "uefi-shell", ""]
