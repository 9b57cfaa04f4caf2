"""Decisions that need two people: the first one's word is kept until a second one says the same."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now, seconds_between
from refloat.errors import Refused
from refloat.store.tables import ApprovalRow

HOLDS_FOR = 3600  # seconds; then the first person is asked again


class SecondPerson:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def agree(self, subject: str, what: str, who: str, reason: str) -> str:
        """Who said the same before, somebody else and within the hour: the decision may be carried out.

        Else Refused (second_person): this word is kept, and nothing was done.
        """
        at = now()
        with Session(self._engine) as session, session.begin():
            first = session.get(ApprovalRow, (subject, what))
            fresh = first is not None and seconds_between(first.at, at) <= HOLDS_FOR
            if first is not None and fresh and _person(first.who) != _person(who):
                said = first.who
                session.delete(first)
                return said
            session.merge(ApprovalRow(subject=subject, what=what, who=who, at=at, reason=reason))
        raise Refused(
            f"{what} of {subject} needs two people: the word of {who} is kept for an hour",
            code="second_person",
            hint="somebody else with their own user or token asks for the same",
        )

    def forget(self, subject: str) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(delete(ApprovalRow).where(ApprovalRow.subject == subject))


def _person(signature: str) -> str:
    """Claimed names prove nobody: all who use the hub's own token are one person."""
    return signature.partition(" (")[0]
