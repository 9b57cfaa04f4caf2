"""The hub's own listener with TLS: real sockets, real certificates, the real command line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from refloat.api.certificate import own_certificate
from refloat.config import Config, load_config
from refloat.errors import Refused
from refloat.tls import _is_for, pair_of
from tests.unit.api.test_server import PROGRAM, ROOT, free_port

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return own_certificate(tmp_path / "tls", "127.0.0.1")


def config(pair: tuple[Path, Path]) -> Config:
    return Config(tls_cert=pair[0], tls_key=pair[1])


@contextmanager
def served(tmp_path: Path, pair: tuple[Path, Path] | None) -> Iterator[int]:
    port = free_port()
    env = {
        **os.environ,
        "REFLOAT_DATA_DIR": str(tmp_path / "hub"),
        "REFLOAT_LISTEN": f"127.0.0.1:{port}",
        **({"REFLOAT_TLS_CERT": str(pair[0]), "REFLOAT_TLS_KEY": str(pair[1])} if pair else {}),
    }
    env.pop("REFLOAT_CONFIG", None)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/api-token").write_text(TOKEN)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            assert f"{'https' if pair else 'http'}://127.0.0.1:{port}" in said
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0


def refloat(url: str, ca: Path | None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "REFLOAT_TOKEN": TOKEN, "REFLOAT_URL": url}
    env.pop("REFLOAT_TLS_CA", None)
    if ca:
        env["REFLOAT_TLS_CA"] = str(ca)
    argv = [sys.executable, "-m", "refloat", "target", "list"]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_over_tls(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with served(tmp_path, pair) as port:
        trusted = refloat(f"https://127.0.0.1:{port}", pair[0])
        assert trusted.returncode == 0, trusted.stderr
        other = own_certificate(tmp_path / "other", "127.0.0.1")[0]
        for ca in (None, other):
            refused = refloat(f"https://127.0.0.1:{port}", ca)
            assert refused.returncode != 0 and "REFLOAT_TLS_CA" in refused.stderr, refused.stderr
        plain = refloat(f"http://127.0.0.1:{port}", None)
        assert plain.returncode != 0 and "https://" in plain.stderr, plain.stderr


def test_tls_to_a_hub_without_it(tmp_path: Path) -> None:
    with served(tmp_path, None) as port:
        said = refloat(f"https://127.0.0.1:{port}", None)
        assert said.returncode != 0 and "http://" in said.stderr, said.stderr


def test_a_pair_that_cannot_be_served_is_refused(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    text = tmp_path / "text"
    text.write_text("no PEM")
    other = own_certificate(tmp_path / "other", "127.0.0.1")[1]
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for cert, key, said in (
        (tmp_path / "none", pair[1], "tls_cert: cannot read"),
        (pair[0], tmp_path / "none", "tls_key: cannot read"),
        (text, pair[1], "cannot be used"),
        (pair[0], text, "cannot be used"),
        (pair[0], other, "not that of the certificate"),
        (pair[0], locked, "passphrase"),
    ):
        with pytest.raises(Refused, match=said) as caught:
            pair_of(config((cert, key)))
        assert caught.value.code == "bad_tls"
    assert pair_of(config(pair)) == pair and pair_of(Config()) is None


@pytest.mark.parametrize(("days", "warned"), [(-1, True), (20, True), (60, False)])
def test_a_certificate_that_expires_is_served_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warned: bool
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(days=90), now + timedelta(days=days)
    ).sign(key, hashes.SHA256())
    files = tmp_path / "hub.crt", tmp_path / "hub.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    files[1].chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert pair_of(config(files)) == files
    assert ("renew it" in caplog.text) is warned


@pytest.mark.parametrize(
    "settings",
    [
        {"REFLOAT_TLS_CERT": "/x"},
        {"REFLOAT_PUBLIC_URL": "hub.example"},
        {"REFLOAT_PUBLIC_URL": "https://hub.example/path"},
        {"REFLOAT_PUBLIC_URL": "http://hub.example", "REFLOAT_TLS_CERT": "/x", "REFLOAT_TLS_KEY": "/y"},
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, settings: dict[str, str]) -> None:
    file = tmp_path / "refloat.yaml"
    file.touch()
    with pytest.raises(Refused) as caught:
        load_config(file, settings)
    assert caught.value.code == "bad_config"


def test_what_the_hub_is_called(tmp_path: Path) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text(
        "listen: 0.0.0.0:8410\npublic_url: https://hub.example:8410/\ntls_cert: /a\ntls_key: /b\n"
    )
    known = load_config(file, {})
    assert known.url == "https://hub.example:8410" and known.hosts == ("0.0.0.0", "hub.example")
    assert Config(tls_cert=Path("/a"), tls_key=Path("/b")).url == "https://127.0.0.1:8410"


@pytest.mark.parametrize(
    ("name", "host", "fits"),
    [
        ("hub.example", "hub.example", True),
        ("HUB.example", "hub.EXAMPLE", True),
        ("*.example.org", "hub.example.org", True),
        ("*.example.org", "a.hub.example.org", False),
        ("*.example.org", "example.org", False),
        ("hub.example", "hub.example.org", False),
        ("10.0.0.2", "10.0.0.2", True),
        ("fd00::1", "fd00:0::1", True),
        ("10.0.0.2", "10.0.0.3", False),
    ],
)
def test_whom_a_certificate_is_for(name: str, host: str, fits: bool) -> None:
    assert _is_for(name, host) is fits
