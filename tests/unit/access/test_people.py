"""Who gets in, with what, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from refloat import clock
from refloat.access import People, Permission, Principal, Role, people
from refloat.access.limits import Throttle
from refloat.access.roles import GRANTS
from refloat.errors import NotFound, RefloatError, Refused
from refloat.store.store import Store

PASSWORD = "a long enough sentence"


@pytest.fixture
def some(tmp_path: Path) -> People:
    return People(Store.open(tmp_path / "hub.sqlite").engine)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes it so many seconds later for everything that asks what time it is."""
    real, shift = clock.now, [0.0]

    def shifted() -> str:
        return clock.before(real(), -shift[0])

    monkeypatch.setattr(people, "now", shifted)

    def later(seconds: float) -> None:
        shift[0] += seconds

    return later


# ---------------------------------------------------------------- users and sessions


def test_a_login_is_a_session_until_it_is_over(some: People, later: Callable[[float], None]) -> None:
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    session = some.log_in("anna", PASSWORD)
    assert session is not None
    again = some.session(session.cookie)
    assert again is not None and again.principal.name == "anna" and again.csrf == session.csrf
    later(people.SESSION_IDLE + 1)
    assert some.session(session.cookie) is None


def test_a_session_that_is_used_ends_all_the_same(some: People, later: Callable[[float], None]) -> None:
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    session = some.log_in("anna", PASSWORD)
    assert session is not None
    for _ in range(int(people.SESSION_MOST / people.SESSION_IDLE * 2)):
        assert some.session(session.cookie) is not None
        later(people.SESSION_IDLE / 2)
    later(1)
    assert some.session(session.cookie) is None


@pytest.mark.parametrize(
    ("name", "password"), [("anna", "wrong password here"), ("nobody", PASSWORD), ("anna", ""), ("robot", "")]
)
def test_what_does_not_let_in(some: People, name: str, password: str) -> None:
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    some.add_user("robot", Role.OPERATOR)
    assert some.log_in(name, password) is None


def test_each_login_is_a_new_session(some: People) -> None:
    """What a browser showed before is never taken up: nobody can plant a session."""
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    first, second = some.log_in("anna", PASSWORD), some.log_in("anna", PASSWORD)
    assert first and second and first.cookie != second.cookie and first.csrf != second.csrf
    some.log_out(first.principal.session)
    assert some.session(first.cookie) is None and some.session(second.cookie) is not None


@pytest.mark.parametrize("change", [{"role": Role.VIEWER}, {"disabled": True}, {"password": PASSWORD + "!"}])
def test_a_changed_user_logs_in_again(some: People, change: dict[str, object]) -> None:
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    session = some.log_in("anna", PASSWORD)
    some.change_user("anna", **change)  # type: ignore[arg-type]
    assert session is not None and some.session(session.cookie) is None


def test_a_disabled_user_has_no_way_in(some: People) -> None:
    some.add_user("anna", Role.OPERATOR, PASSWORD)
    _, token = some.issue_token("anna", "for tests", days=1)
    some.change_user("anna", disabled=True)
    assert some.log_in("anna", PASSWORD) is None and some.who_has(token) is None
    some.change_user("anna", disabled=False)
    assert some.log_in("anna", PASSWORD) is not None and some.who_has(token) is not None


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [
        ("", PASSWORD, "bad_name"),
        ("local", PASSWORD, "bad_name"),
        ("Anna", PASSWORD, "bad_name"),
        ("a\nb", PASSWORD, "bad_name"),
        ("anna\n", PASSWORD, "bad_name"),
        ("a" * 33, PASSWORD, "bad_name"),
        ("anna", "short", "bad_password"),
        ("anna", "x" * 1025, "bad_password"),
    ],
)
def test_who_cannot_be_added(some: People, name: str, password: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        some.add_user(name, Role.VIEWER, password)
    assert caught.value.code == code and some.users() == []


def test_a_name_is_given_once(some: People) -> None:
    some.add_user("anna", Role.VIEWER, PASSWORD)
    with pytest.raises(Refused, match="already"):
        some.add_user("anna", Role.ADMIN, PASSWORD)
    assert some.users()[0].role is Role.VIEWER


def test_nothing_that_lets_in_is_stored(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "hub.sqlite")
    some = People(store.engine)
    some.add_user("anna", Role.ADMIN, PASSWORD)
    session, (_, token) = some.log_in("anna", PASSWORD), some.issue_token("anna", "for tests", days=1)
    store.engine.dispose()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert session is not None
    for secret in (PASSWORD, session.cookie, token.split("_", 2)[2]):
        assert secret.encode() not in kept


# ---------------------------------------------------------------- tokens


def test_a_token_stands_for_its_owner(some: People, later: Callable[[float], None]) -> None:
    some.add_user("anna", Role.OPERATOR)
    info, token = some.issue_token("anna", "for tests", days=2)
    assert some.who_has(token) == Principal("anna", Role.OPERATOR)
    assert some.token(info.id).used
    later(2 * 86400 + 1)
    assert some.who_has(token) is None


def test_a_revoked_token_is_over_at_once(some: People) -> None:
    some.add_user("anna", Role.OPERATOR)
    info, token = some.issue_token("anna", "for tests", days=2)
    some.revoke_token(info.id)
    assert some.who_has(token) is None


@pytest.mark.parametrize("given", ["", "rf", "rf_", "rf__", "rf_x_y", "_x_y", "xx_{id}_{secret}", "rf_{id}_"])
def test_no_token(some: People, given: str) -> None:
    some.add_user("anna", Role.OPERATOR)
    info, token = some.issue_token("anna", "for tests", days=2)
    assert some.who_has(given.format(id=info.id, secret=token.split("_", 2)[2])) is None
    assert some.who_has(token + "x") is None


def test_a_token_has_at_most_its_owners_role(some: People) -> None:
    some.add_user("anna", Role.OPERATOR)
    with pytest.raises(Refused, match="cannot be admin"):
        some.issue_token("anna", "for tests", days=1, role=Role.ADMIN)
    _, token = some.issue_token("anna", "for tests", days=1)
    some.change_user("anna", role=Role.VIEWER)
    assert some.who_has(token) == Principal("anna", Role.VIEWER)


def test_scopes_narrow_and_never_widen(some: People) -> None:
    some.add_user("watch", Role.VIEWER)
    _, token = some.issue_token("watch", "for tests", days=1, scopes=[Permission.LOOK, Permission.DECIDE])
    found = some.who_has(token)
    assert found is not None and [one for one in Permission if found.may(one)] == [Permission.LOOK]


@pytest.mark.parametrize("ask", ["change_user", "token", "revoke_token"])
def test_unknown_names(some: People, ask: str) -> None:
    with pytest.raises(NotFound):
        getattr(some, ask)("nobody")
    with pytest.raises(RefloatError):
        some.issue_token("nobody", "for tests", days=1)


# ---------------------------------------------------------------- roles


@pytest.mark.parametrize("permission", Permission)
def test_each_permission_is_somebodys(permission: Permission) -> None:
    """An admin may all; a viewer may look, and nothing that changes anything."""
    assert permission in GRANTS
    assert Principal("root", Role.ADMIN).may(permission)
    assert Principal("guest", Role.VIEWER).may(permission) == (permission is Permission.LOOK)


def test_a_throttle_lets_few_try_and_forgets_nobody_too_soon() -> None:
    at = [0.0]
    throttle = Throttle(burst=3, every=10, clock=lambda: at[0])
    assert [throttle.wait_for("a") for _ in range(3)] == [0, 0, 0]
    assert throttle.wait_for("a") == 10 and throttle.wait_for("b") == 0
    at[0] = 9.0
    assert throttle.wait_for("a") == pytest.approx(1)
    at[0] = 10.0
    assert throttle.wait_for("a") == 0 and throttle.wait_for("a") == 10
    throttle.forgive("a")
    assert throttle.wait_for("a") == 0


def test_who_is_held_back_is_not_forgotten_for_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refloat.access.limits._MOST_KEYS", 3)
    throttle = Throttle(burst=1, every=1000)
    throttle.wait_for("guesser")
    for other in ("a", "b", "c", "d"):
        assert throttle.wait_for("guesser") > 0
        throttle.wait_for(other)
