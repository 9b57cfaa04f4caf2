from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.api.certificate import own_certificate
from refloat.secret import SecretRef
from tests.unit.notify.receivers import MailServer, Receiver


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody's authority signed, and its key."""
    return own_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def secret(tmp_path: Path) -> SecretRef:
    (tmp_path / "secret").write_text("hush-hush\n")
    return SecretRef(str(tmp_path / "secret"))


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*faults: int | str, tls: tuple[Path, Path] | None = None) -> Receiver:
        made.append(Receiver(*faults, tls=tls))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def mail_server() -> Iterator[Callable[..., MailServer]]:
    made: list[MailServer] = []

    def make(*faults: str, tls: tuple[Path, Path] | None = None, at_once: bool = False) -> MailServer:
        made.append(MailServer(*faults, tls=tls, at_once=at_once))
        return made[-1]

    yield make
    for one in made:
        one.close()
