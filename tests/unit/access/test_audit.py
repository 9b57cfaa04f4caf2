"""The log only grows, and whoever changes it is found out."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from refloat.access import Audit, SecondPerson
from refloat.access import second as second_module
from refloat.errors import Refused
from refloat.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "hub.sqlite")


@pytest.fixture
def audit(store: Store) -> Audit:
    audit = Audit(store.engine)
    for number in range(5):
        audit.record("anna", "commit", f"job-{number}", "it works", number=number)
    return audit


def forge(store: Store, *statements: str) -> None:
    """What somebody with the database file can do: the triggers go first."""
    with store.engine.begin() as connection:
        for action in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER audit_no_{action}"))
        for statement in statements:
            connection.execute(text(statement))


def test_it_says_who_and_why(audit: Audit) -> None:
    newest, *_ = audit.entries(limit=2)
    assert (newest.who, newest.what, newest.subject, newest.reason) == ("anna", "commit", "job-4", "it works")
    assert newest.data == {"number": 4}
    assert [entry.id for entry in audit.entries(before=3)] == [2, 1]
    assert [entry.id for entry in audit.entries(subject="job-1")] == [2]


def test_untouched_it_verifies(audit: Audit) -> None:
    found = audit.verify()
    assert found.entries == 5 and found.head == audit.entries(limit=1)[0].sha256
    audit.record("ben", "rollback", "job-9")
    assert audit.verify(known_head=found.head).entries == 6


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'ben'", "DELETE FROM audit"])
def test_the_store_refuses_every_change(store: Store, audit: Audit, statement: str) -> None:
    with pytest.raises(DBAPIError, match="only grows"), store.engine.begin() as connection:
        connection.execute(text(statement))
    assert audit.verify().entries == 5


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET who = 'ben' WHERE id = 3", "entry 3"),
        ("UPDATE audit SET data = '{\"number\": 7}' WHERE id = 2", "entry 2"),
        ("UPDATE audit SET at = '2020-01-01T00:00:00.000+00:00' WHERE id = 1", "entry 1"),
        ("UPDATE audit SET origin = '10.0.0.1' WHERE id = 5", "entry 5"),
        ("DELETE FROM audit WHERE id = 1", "entry 1 is missing"),
        ("DELETE FROM audit WHERE id = 3", "entry 3 is missing"),
        ("UPDATE audit SET id = 30 WHERE id = 3", "entry 3 is missing"),
    ],
)
def test_a_forged_entry_is_named(store: Store, audit: Audit, statement: str, says: str) -> None:
    forge(store, statement)
    with pytest.raises(Refused, match=says):
        audit.verify()


def test_a_log_whose_end_was_cut_off_is_known_by_a_noted_hash(store: Store, audit: Audit) -> None:
    head = audit.verify().head
    forge(store, "DELETE FROM audit WHERE id > 3")
    assert audit.verify().entries == 3  # by itself it looks whole
    with pytest.raises(Refused, match="is in none of its 3 entries"):
        audit.verify(known_head=head)


def test_writers_at_once_make_one_chain(store: Store, audit: Audit) -> None:
    def write(who: str) -> None:
        for number in range(20):
            audit.record(who, "sync", f"target-{number}")

    threads = [threading.Thread(target=write, args=(f"user{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert audit.verify().entries == 85


# ---------------------------------------------------------------- two people


def test_two_people_are_two(store: Store) -> None:
    second = SecondPerson(store.engine)
    for who in ("anna", "anna", "anna"):
        with pytest.raises(Refused, match="needs two people"):
            second.agree("job-1", "commit", who, "")
    assert second.agree("job-1", "commit", "ben", "") == "anna"
    with pytest.raises(Refused):  # the words are used up
        second.agree("job-1", "commit", "ben", "")


def test_a_claimed_name_is_no_second_person(store: Store) -> None:
    second = SecondPerson(store.engine)
    for who in ("local (root)", "local (ben)"):
        with pytest.raises(Refused, match="needs two people"):
            second.agree("job-1", "commit", who, "")


def test_a_word_is_for_one_thing_and_not_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    second = SecondPerson(store.engine)
    for subject, what in (("job-1", "commit"), ("job-2", "rollback"), ("job-1", "rollback")):
        with pytest.raises(Refused):
            second.agree(subject, what, "anna", "")
    monkeypatch.setattr(second_module, "HOLDS_FOR", -1)
    with pytest.raises(Refused):
        second.agree("job-1", "commit", "ben", "")
