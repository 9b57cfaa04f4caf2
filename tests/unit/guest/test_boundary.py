"""What may be changed in a guest is a list; all else is refused."""

from __future__ import annotations

import pytest

from refloat.guest import boundary


@pytest.mark.parametrize(
    "path",
    [
        "/etc/fstab",
        "/boot/grub/grub.cfg",
        "/boot/initrd.img-6.1.0-56-amd64",
        "/etc/refloat/network/0",
        "/etc/systemd/system/refloat-report.service",
        "/etc/systemd/system/emergency.target.wants",
        "/etc/systemd/system/rescue.target.wants/refloat-report.service",
    ],
)
def test_allowed(path: str) -> None:
    assert boundary.LINUX.limitation(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/etc/shadow", "/etc/gshadow-", "/etc/ssh/sshd_config", "/etc/machine-id",
        "/home/app/x", "/root/.bashrc", "/srv/data/row", "/var/lib/postgresql/x", "/usr/bin/sh",
        "/etc/hostname", "/etc/systemd/system/app.service",
        "/etc/systemd/system/multi-user.target.wants/app.service",
        "/etc/fstab2", "/etc/fstab/x", "/boot/vmlinuz-6.1", "/boot/grub/x/grub.cfg", "/", "", "etc/fstab",
        "/etc/refloat/../passwd", "/etc/network/interfaces", "/boot/initrd.img-6.1/x",
    ],
)  # fmt: skip
def test_refused(path: str) -> None:
    with pytest.raises(boundary.BoundaryViolation):
        boundary.LINUX.check(path)


def test_every_rule_has_its_reason() -> None:
    assert all(rule.because for rule in (*boundary.ALLOWED, *boundary.FORBIDDEN))
