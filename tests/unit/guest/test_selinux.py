"""Labels of new files, as the guest's own policy has them."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest.journal import Journal
from refloat.guest.linux.selinux import XATTR, Labels, labels, parse
from refloat.guest.tree import Tree

# As in the targeted policy, in its order: general first.
CONTEXTS = """\
/.*\tsystem_u:object_r:default_t:s0
/etc/.*\tsystem_u:object_r:etc_t:s0
/etc/systemd/system(/.*)?\tsystem_u:object_r:systemd_unit_file_t:s0
/usr/lib/systemd/system(/.*)?  system_u:object_r:systemd_unit_file_t:s0
/etc/cloud(/.*)?\t-d\tsystem_u:object_r:cloud_dir_t:s0
/etc/mtab\t--\tsystem_u:object_r:etc_runtime_t:s0
/etc/m.*\tsystem_u:object_r:other_t:s0
/dev/log\t-s\tsystem_u:object_r:devlog_t:s0
/tmp/.*\t<<none>>
"""
ETC = "system_u:object_r:etc_t:s0"
UNIT = "system_u:object_r:systemd_unit_file_t:s0"


def label(path: str, kind: int = stat.S_IFREG, text: str = CONTEXTS, **more: object) -> str:
    found = Labels(parse(text), **more).of(path, kind)  # type: ignore[arg-type]
    assert all(name == XATTR and value.endswith(b"\0") for name, value in found)
    return found[0][1][:-1].decode() if found else ""


@pytest.mark.parametrize(
    ("path", "kind", "context"),
    [
        ("/etc/refloat/pending", stat.S_IFREG, ETC),
        ("/etc/systemd/system/refloat-report.service", stat.S_IFREG, UNIT),
        ("/etc/systemd/system", stat.S_IFDIR, UNIT),
        ("/etc/cloud", stat.S_IFDIR, "system_u:object_r:cloud_dir_t:s0"),
        ("/etc/cloud/x", stat.S_IFREG, ETC),
        # Written out in full: wins over a pattern that comes later.
        ("/etc/mtab", stat.S_IFREG, "system_u:object_r:etc_runtime_t:s0"),
        ("/etc/mtab", stat.S_IFLNK, "system_u:object_r:other_t:s0"),
        ("/srv/x", stat.S_IFREG, "system_u:object_r:default_t:s0"),
        ("/tmp/x", stat.S_IFREG, ""),
    ],
)
def test_label(path: str, kind: int, context: str) -> None:
    assert label(path, kind) == context


def test_aliases_count_as_what_they_stand_for() -> None:
    assert (
        label("/run/systemd/system/x", aliases=(("/run/systemd/system", "/usr/lib/systemd/system"),)) == UNIT
    )


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("SELINUX=enforcing\nSELINUXTYPE=targeted\n", True),
        ("# SELINUX=disabled\nSELINUX=permissive\nSELINUXTYPE=targeted\n", True),
        ("SELINUX=disabled\nSELINUXTYPE=targeted\n", False),
        ("SELINUX=enforcing\nSELINUXTYPE=../../../etc\n", False),
        ("", False),
    ],
)
def test_the_guests_policy_is_used_where_it_is_in_use(tmp_path: Path, config: str, found: bool) -> None:
    _policy(tmp_path, config)
    with Tree(tmp_path) as tree:
        assert bool(labels(tree).rules) is found


def _policy(root: Path, config: str) -> None:
    files = root / "etc/selinux/targeted/contexts/files"
    files.mkdir(parents=True)
    (files / "file_contexts").write_text(CONTEXTS)
    (root / "etc/selinux/config").write_text(config)


@pytest.mark.skipif(os.geteuid() != 0, reason="labels can be set by root only")
def test_new_files_are_labelled_and_old_ones_keep_their_label(tmp_path: Path) -> None:
    guest = tmp_path / "guest"
    _policy(guest, "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    fstab = guest / "etc/fstab"
    fstab.write_text("old\n")
    try:
        os.setxattr(fstab, XATTR, b"system_u:object_r:old_t:s0\0")
    except OSError:
        pytest.skip("this filesystem takes no labels")
    with Tree(guest) as tree:
        journal = Journal(tmp_path / "run", tree, labels=labels(tree))
        journal.write_text("/etc/fstab", "new\n", "test", expect="old\n")
        journal.directory("/etc/refloat", "test")
        journal.write("/etc/refloat/pending", b"x", "test")
        (guest / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
        link = "/etc/systemd/system/multi-user.target.wants/refloat-report.service"
        journal.symlink(link, "/etc/systemd/system/refloat-report.service", "test")
    assert os.getxattr(fstab, XATTR) == b"system_u:object_r:old_t:s0\0"
    for path in ("etc/refloat", "etc/refloat/pending"):
        assert os.getxattr(guest / path, XATTR) == f"{ETC}\0".encode()
    assert os.getxattr(guest / link.lstrip("/"), XATTR, follow_symlinks=False) == f"{UNIT}\0".encode()


def test_a_hostile_pattern_costs_nothing() -> None:
    started = time.monotonic()
    text = (
        "/etc/(a+)+b  x_u:r:t:s0\n/etc/(.*)*(.*)*z y_u:r:t:s0\n/etc/"
        + ".*" * 40
        + "z z_u:r:t:s0\n/etc/( q_u:r:t:s0\n"
    )
    assert label("/etc/" + "a" * 60, text=text) == ""
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "pattern",
    ["((.*)x?)*b", "((.*))*b", "(a|a)*b", "(a?){40}b", "a?" * 40 + "a" * 40 + "b", "([^)]*)*b", "(a|aa)+b"],
)
def test_no_pattern_is_tried_for_long(pattern: str) -> None:
    started = time.monotonic()
    assert label("/etc/" + "a" * 60, text=f"/etc/{pattern} x_u:r:t:s0\n") == ""
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (r"/etc/rc\.d/init\.d/.*", "/etc/rc.d/init.d/refloat-firstboot"),
        (r"/(usr/)?lib(64)?/systemd/system(/.*)?", "/usr/lib/systemd/system/x"),
        (r"/etc/[^/]*/.*\.wants(/.*)?", "/etc/systemd/system/multi-user.target.wants"),
        (r"/etc/(init\.d|rc[0-9]*\.d)/[^/]+", "/etc/rc3.d/S09x"),
    ],
)
def test_patterns_as_policies_have_them_match(pattern: str, path: str) -> None:
    assert label(path, text=f"{pattern} x_u:r:t:s0\n") == "x_u:r:t:s0"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    Labels(parse(text)).of("/etc/refloat/pending", stat.S_IFREG)
