"""Users, their tokens and their sessions. What proves somebody is kept as a hash alone."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as Transaction

from refloat.access.roles import LOCAL, Permission, Principal, Role, at_least
from refloat.clock import before, now, seconds_between
from refloat.errors import NotFound, Refused
from refloat.store.tables import SessionRow, TokenRow, UserRow

SESSION_IDLE = 2 * 3600  # seconds without a request; a failover is watched for longer than it is clicked
SESSION_MOST = 12 * 3600  # seconds from the login
_SEEN_EVERY = 30  # seconds: not every request writes
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 1024  # NIST SP 800-63B asks for 8 and more, and no other rules
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_PREFIX = "rf"
LONGEST_TOKEN_DAYS = 366


@dataclass(frozen=True)
class User:
    name: str
    role: Role
    disabled: bool
    has_password: bool
    created: str


@dataclass(frozen=True)
class TokenInfo:
    """All that is known of a token but its secret."""

    id: str
    owner: str
    label: str
    role: Role
    scopes: tuple[Permission, ...]
    created: str
    expires: str
    used: str
    revoked: str


@dataclass(frozen=True)
class Session:
    """`cookie` is what the browser shows from now on; `csrf` what its forms must show besides."""

    cookie: str
    principal: Principal

    @property
    def csrf(self) -> str:
        return hmac.digest(self.cookie.encode(), b"csrf", "sha256").hex()


class People:
    """Every method raises NotFound for unknown names and Refused where nothing was changed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hasher = PasswordHasher()
        # Verified where there is no such user: the answer takes as long as for a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with Transaction(self._engine) as transaction, transaction.begin():
            yield transaction

    # ------------------------------------------------------------ users

    def users(self) -> list[User]:
        with self._transaction() as rows:
            return [_user(row) for row in rows.scalars(select(UserRow).order_by(UserRow.name))]

    def add_user(self, name: str, role: Role, password: str = "") -> User:
        if not _NAME.fullmatch(name) or name == LOCAL:
            raise Refused(
                f"{name!r} is no name for a user",
                code="bad_name",
                hint=f"lower case letters, digits, . _ - , a letter first, at most 32; not {LOCAL!r}",
            )
        hashed = self._hashed(password) if password else ""
        with self._transaction() as rows:
            if rows.get(UserRow, name) is not None:
                raise Refused(
                    f"there is a user {name} already", code="user_exists", hint="see `refloat user list`"
                )
            row = UserRow(name=name, role=role, password=hashed, created=now())
            rows.add(row)
            rows.flush()
            return _user(row)

    def change_user(
        self, name: str, role: Role | None = None, disabled: bool | None = None, password: str | None = None
    ) -> User:
        """What is None stays. Any change ends the user's sessions; a disabled user's tokens let nobody in."""
        hashed = None if password is None else self._hashed(password)
        with self._transaction() as rows:
            row = _known_user(rows, name)
            row.role = role or row.role
            row.disabled = row.disabled if disabled is None else disabled
            row.password = row.password if hashed is None else hashed
            rows.execute(delete(SessionRow).where(SessionRow.user == name))
            return _user(row)

    def _hashed(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise Refused(
                f"a password has {SHORTEST_PASSWORD} characters at least and {LONGEST_PASSWORD} at most",
                code="bad_password",
                hint="a sentence is easy to keep in mind",
            )
        return self._hasher.hash(password)

    # ------------------------------------------------------------ sessions

    def log_in(self, name: str, password: str) -> Session | None:
        """A new session, whatever the browser showed before; None without saying what was wrong."""
        with self._transaction() as rows:
            row = rows.get(UserRow, name)
            usable = row is not None and bool(row.password) and not row.disabled
            stored = row.password if row is not None and usable else self._nobody
            if not self._matches(stored, password) or row is None or not usable:
                return None
            if self._hasher.check_needs_rehash(row.password):
                row.password = self._hasher.hash(password)
            cookie, at = secrets.token_urlsafe(32), now()
            oldest = before(at, SESSION_MOST)
            rows.execute(delete(SessionRow).where(SessionRow.created < oldest))
            rows.add(SessionRow(id=_digest(cookie), user=name, created=at, seen=at))
            return Session(cookie, Principal(name, Role(row.role), session=_digest(cookie)))

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password[: LONGEST_PASSWORD + 1])
        except (Argon2Error, InvalidHashError):
            return False

    def session(self, cookie: str) -> Session | None:
        """The session of this cookie, while it lives and its user is not disabled."""
        at = now()
        with self._transaction() as rows:
            row = rows.get(SessionRow, _digest(cookie))
            user = None if row is None else rows.get(UserRow, row.user)
            if row is None or user is None or user.disabled:
                return None
            idle, age = seconds_between(row.seen, at), seconds_between(row.created, at)
            if idle > SESSION_IDLE or age > SESSION_MOST:
                rows.delete(row)
                return None
            if idle > _SEEN_EVERY:
                row.seen = at
            return Session(cookie, Principal(user.name, Role(user.role), session=row.id))

    def log_out(self, session: str) -> None:
        with self._transaction() as rows:
            rows.execute(delete(SessionRow).where(SessionRow.id == session))

    # ------------------------------------------------------------ tokens

    def issue_token(
        self,
        owner: str,
        label: str,
        days: int,
        role: Role | None = None,
        scopes: Collection[Permission] = (),
        until: str = "",
    ) -> tuple[TokenInfo, str]:
        """The token's record and the token itself, which is shown this once. It is over after `days`, and at
        `until` where that is earlier."""
        if not 1 <= days <= LONGEST_TOKEN_DAYS:
            raise Refused(
                f"a token lives for 1 to {LONGEST_TOKEN_DAYS} days",
                code="bad_days",
                hint="make a new one then",
            )
        with self._transaction() as rows:
            user = _known_user(rows, owner)
            role = role or Role(user.role)
            if not at_least(Role(user.role), role):
                raise Refused(
                    f"{owner} is {user.role}: a token cannot be {role}",
                    code="role_too_high",
                    hint="a token has its owner's role or a lower one",
                )
            id, secret, at = secrets.token_hex(6), secrets.token_urlsafe(32), now()
            expires = before(at, -days * 86400)
            row = TokenRow(
                id=id,
                owner=owner,
                label=label,
                role=role,
                scopes=" ".join(sorted(scopes)),
                secret=_digest(secret),
                created=at,
                expires=min(expires, until or expires),
            )
            rows.add(row)
            rows.flush()
            return _token(row), f"{_PREFIX}_{id}_{secret}"

    def tokens(self, owner: str = "") -> list[TokenInfo]:
        wanted = select(TokenRow).order_by(TokenRow.created)
        if owner:
            wanted = wanted.where(TokenRow.owner == owner)
        with self._transaction() as rows:
            return [_token(row) for row in rows.scalars(wanted)]

    def token(self, id: str) -> TokenInfo:
        with self._transaction() as rows:
            return _token(_known_token(rows, id))

    def revoke_token(self, id: str) -> TokenInfo:
        with self._transaction() as rows:
            row = _known_token(rows, id)
            row.revoked = row.revoked or now()
            return _token(row)

    def who_has(self, token: str) -> Principal | None:
        """Whom this token stands for; None where it is none of ours, is over, or its owner is disabled."""
        prefix, _, rest = token.partition("_")
        id, _, secret = rest.partition("_")
        if prefix != _PREFIX or not id or not secret:
            return None
        at = now()
        with self._transaction() as rows:
            row = rows.get(TokenRow, id)
            if row is None or not hmac.compare_digest(row.secret, _digest(secret)):
                return None
            owner = rows.get(UserRow, row.owner)
            if row.revoked or row.expires <= at or owner is None or owner.disabled:
                return None
            if not row.used or seconds_between(row.used, at) > _SEEN_EVERY:
                rows.execute(update(TokenRow).where(TokenRow.id == id).values(used=at))
            # An owner who was made viewer has no operator's tokens left.
            role = min(Role(row.role), Role(owner.role), key=list(Role).index)
            scopes = frozenset(Permission(word) for word in row.scopes.split()) if row.scopes else None
            return Principal(row.owner, role, scopes, until=row.expires)

    def anyone(self) -> bool:
        """Whether there is a user at all: without one the page says how to make the first."""
        with self._transaction() as rows:
            return bool(rows.scalar(select(func.count()).select_from(UserRow)))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _known_user(rows: Transaction, name: str) -> UserRow:
    row = rows.get(UserRow, name)
    if row is None:
        raise NotFound(f"unknown user: {name}", code="unknown_user", hint="see `refloat user list`")
    return row


def _known_token(rows: Transaction, id: str) -> TokenRow:
    row = rows.get(TokenRow, id)
    if row is None:
        raise NotFound(f"unknown token: {id}", code="unknown_token", hint="see `refloat token list`")
    return row


def _user(row: UserRow) -> User:
    return User(row.name, Role(row.role), row.disabled, bool(row.password), row.created)


def _token(row: TokenRow) -> TokenInfo:
    scopes: Sequence[Permission] = [Permission(word) for word in row.scopes.split()]
    return TokenInfo(
        row.id,
        row.owner,
        row.label,
        Role(row.role),
        tuple(scopes),
        row.created,
        row.expires,
        row.used,
        row.revoked,
    )
