"""What is secret in the store: sealed, opened by its key alone, and sealed anew when there is a newer key."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from refloat.errors import NotFound, Refused
from refloat.model import Mode, Secrets
from refloat.store.inbox import lines_after, put_line
from refloat.store.seal import ENVIRONMENT, Keys, Seal
from refloat.store.store import Store
from refloat.store.tables import InboxRow, RecordRow, SecretRow
from refloat.store.vault import LONGEST, Vault

OLD, NEW = b"o" * 32, b"n" * 32
TOKEN = Secrets("the-token-of-a-guest", "the-nonce-of-a-guest")


def text(*keys: bytes) -> str:
    return "".join(base64.b64encode(key).decode() + "\n" for key in keys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "refloat.sqlite"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "seal.key"


def filled(store: Store) -> str:
    """A job with everything that is sealed."""
    store.ensure_target("web")
    job = store.create_job("web", Mode.TEST).id
    store.save(job, "secrets", TOKEN)
    put_line(store, job, 1, TOKEN.token.encode())
    Vault(store.engine, store.seal).put("cloud-key", "the-key-of-a-cloud", "anna")
    return job


def require_filled(store: Store, job: str) -> None:
    assert store.load(job, "secrets", Secrets) == TOKEN
    assert lines_after(store, job, 0) == [(1, TOKEN.token.encode())]
    assert Vault(store.engine, store.seal).read("cloud-key") == "the-key-of-a-cloud"


def sealed_texts(store: Store) -> list[str]:
    with Session(store.engine) as session:
        return [
            *(row.data["sealed"] for row in session.scalars(select(RecordRow))),
            *(row.line.decode() for row in session.scalars(select(InboxRow))),
            *(row.sealed for row in session.scalars(select(SecretRow))),
        ]


# ---------------------------------------------------------------- the seal


def test_what_is_sealed_opens_in_its_place_alone() -> None:
    seal = Seal([OLD])
    closed = seal.close("here", b"content")
    assert closed != seal.close("here", b"content") and b"content" not in closed.encode()
    assert seal.open("here", closed) == b"content"
    for where, damaged in (
        ("there", closed),
        ("here", closed[:-5] + "AAAA="),
        ("here", closed[:20]),
        ("here", ""),
        ("here", closed.replace("sealed1", "sealed9")),
        ("here", Seal([NEW]).close("here", b"content")),
    ):
        with pytest.raises(Refused) as caught:
            seal.open(where, damaged)
        assert caught.value.code == "sealed" and caught.value.hint


def test_the_first_key_seals_and_each_opens() -> None:
    closed = Seal([OLD]).close("here", b"content")
    both = Seal([NEW, OLD])
    assert both.open("here", closed) == b"content" and not both.is_current(closed)
    assert Seal([NEW]).open("here", both.close("here", b"more")) == b"more"


# ---------------------------------------------------------------- the keys


def test_a_new_key_is_the_hubs_alone_and_goes_before_the_others(key: Path) -> None:
    keys = Keys(key, {})
    assert keys.read() is None
    first = keys.make().close("here", b"content")
    assert key.stat().st_mode & 0o777 == 0o600
    second = keys.make()
    assert second.open("here", first) == b"content" and not second.is_current(first)
    again = keys.read()
    assert again is not None and again.is_current(second.close("here", b""))
    assert [path.name for path in key.parent.iterdir()] == ["seal.key"]


def test_a_key_in_the_environment_goes_before_the_file(key: Path) -> None:
    key.write_text("nothing that is looked at")
    keys = Keys(key, {ENVIRONMENT: text(NEW)})
    seal = keys.read()
    assert seal is not None and seal.open("here", Seal([NEW]).close("here", b"content")) == b"content"
    with pytest.raises(Refused, match=ENVIRONMENT):
        keys.make()
    assert "b" * 20 not in repr(keys) and text(NEW).strip() not in repr(keys)


@pytest.mark.parametrize("content", ["", "\n", "no base64 at all!", text(b"short"), text(OLD) + "more\n"])
def test_a_file_that_holds_no_keys_is_refused_and_not_quoted(key: Path, content: str) -> None:
    key.write_text(content)
    key.chmod(0o600)
    with pytest.raises(Refused) as caught:
        Keys(key, {}).read()
    assert caught.value.code == "seal_key" and caught.value.hint and str(key) in caught.value.message
    assert text(OLD).strip() not in caught.value.message


def test_a_file_that_others_can_read_is_refused(key: Path) -> None:
    key.write_text(text(OLD))
    key.chmod(0o640)
    with pytest.raises(Refused, match="others can read it") as caught:
        Keys(key, {}).read()
    assert caught.value.hint == f"chmod 600 {key}"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.write_text("A" * 5000)])
def test_what_is_no_file_with_keys_is_refused(key: Path, make: Callable[[Path], object]) -> None:
    make(key)
    with pytest.raises(Refused, match="no file with keys"):
        Keys(key, {}).read()


# ---------------------------------------------------------------- the store


def test_a_copy_of_the_store_tells_no_secret(file: Path, key: Path) -> None:
    store = Store.open(file)
    job = filled(store)
    require_filled(store, job)
    store.engine.dispose()
    content = b"".join(path.read_bytes() for path in file.parent.iterdir() if path != key)
    for secret in (TOKEN.token, TOKEN.nonce, "the-key-of-a-cloud"):
        assert secret.encode() not in content
    assert b"anna" in content  # what is not secret is found: the search is one


def test_the_key_is_made_once(file: Path, key: Path) -> None:
    store = Store.open(file)
    job = filled(store)
    made = key.read_text()
    store.engine.dispose()
    store = Store.open(file)
    require_filled(store, job)
    assert key.read_text() == made
    store.engine.dispose()


def test_what_was_there_before_there_were_seals_is_sealed(file: Path) -> None:
    store = Store.open(file)
    job = filled(store)
    plain = {"value": {"token": TOKEN.token, "nonce": TOKEN.nonce}}
    with Session(store.engine) as session, session.begin():
        session.execute(update(RecordRow).values(data=plain))
        session.execute(update(InboxRow).values(line=TOKEN.token.encode()))
    store.engine.dispose()
    store = Store.open(file)
    require_filled(store, job)
    assert all(one.startswith("sealed1:") for one in sealed_texts(store))
    store.engine.dispose()


def test_a_newer_key_seals_everything_anew_at_the_next_start(file: Path, key: Path) -> None:
    store = Store.open(file)
    job, before = filled(store), sealed_texts(store)
    store.engine.dispose()
    old = key.read_text()
    Keys(key, {}).make()
    store = Store.open(file)
    require_filled(store, job)
    after = sealed_texts(store)
    assert len(after) == 3 and not set(after) & set(before)
    store.engine.dispose()
    key.write_text(key.read_text().removesuffix(old))  # the old one is not needed any more
    store = Store.open(file)
    require_filled(store, job)
    assert sealed_texts(store) == after
    store.engine.dispose()


def test_a_key_that_is_not_there_is_not_made_again(file: Path, key: Path) -> None:
    store = Store.open(file)
    job = filled(store)
    store.engine.dispose()
    kept = key.read_text()
    key.unlink()
    with pytest.raises(Refused) as caught:
        Store.open(file)
    assert caught.value.code == "seal_key" and "new-key" in caught.value.hint and not key.exists()
    key.write_text(kept)
    key.chmod(0o600)
    store = Store.open(file)
    require_filled(store, job)
    store.engine.dispose()


def test_a_hub_that_lost_its_key_starts_with_a_new_one_and_opens_nothing_old(file: Path, key: Path) -> None:
    store = Store.open(file)
    job, before = filled(store), sealed_texts(store)
    store.engine.dispose()
    key.unlink()
    Keys(key, {}).make()
    store = Store.open(file)
    vault = Vault(store.engine, store.seal)
    for use in (lambda: store.load(job, "secrets", Secrets), lambda: vault.read("cloud-key")):
        with pytest.raises(Refused) as caught:
            use()
        assert caught.value.code == "sealed"
    assert sealed_texts(store) == before  # should the key be found again
    vault.put("cloud-key", "another", "anna")
    assert vault.read("cloud-key") == "another"
    store.engine.dispose()


# ---------------------------------------------------------------- the vault


def test_the_vault(file: Path) -> None:
    store = Store.open(file)
    vault = Vault(store.engine, store.seal)
    assert vault.all() == []
    vault.put("b", "1", "anna")
    vault.put("a", "2", "bert")
    vault.put("b", "3", "bert")
    assert [(one.name, one.who) for one in vault.all()] == [("a", "bert"), ("b", "bert")]
    assert vault.read("b") == "3"
    vault.remove("b")
    for use in (vault.read, vault.remove):
        with pytest.raises(NotFound):
            use("b")
    for value in ("", "x" * (LONGEST + 1)):
        with pytest.raises(Refused):
            vault.put("a", value, "anna")
    assert vault.read("a") == "2"
    with Session(store.engine) as session, session.begin():
        session.add(
            SecretRow(name="moved", sealed=session.get_one(SecretRow, "a").sealed, changed="", who="")
        )
    with pytest.raises(Refused, match="another row's"):
        vault.read("moved")
    store.engine.dispose()
