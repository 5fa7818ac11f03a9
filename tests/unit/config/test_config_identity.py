"""All spellings of a login are one identity, and names with invisible characters are refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.configs import GOOD, Directory, config

from manager.config import AccountConfig
from manager.config.identity import plain, plain_login, spelling_problem

INVISIBLE = ["\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u202e", "\u3164"]
BLANKS = ["", " ", "\t", "\u00a0", "\u3000"]

SPELLINGS = [
    5001,
    "5001",
    "05001",
    "5001 ",
    " 5001",
    "+5001",
    "5001.0",
    "5001.",
    "\uff15\uff10\uff10\uff11",  # full width
    "\u0665\u0660\u0660\u0661",  # Arabic
    "50\u200b01",
    "\ufeff5001",
    "+005001.000\u00a0",
]


@pytest.mark.parametrize("login", SPELLINGS)
@pytest.mark.parametrize(
    "server",
    ["Paper-1", "PAPER-1", " paper-1", "Paper-1\u200b", "\uff30aper-1", "Paper\u20111", "Paper\u20131"],
)
def test_every_spelling_of_a_login_is_one_identity(login: int | str, server: str) -> None:
    account = config(login=login, server=server)
    assert account.identity() == "paper:paper-1:5001"
    assert account.broker_login() == ("paper-1", "5001")


@st.composite
def spelled(draw: st.DrawFn, number: int) -> str:
    """Return a number in one of the spellings of a file."""
    text = "0" * draw(st.integers(0, 3)) + str(number)
    zero = draw(st.sampled_from([0x30, 0xFF10, 0x0660, 0x0966]))
    text = "".join(chr(zero + int(digit)) for digit in text)
    text = draw(st.sampled_from(["", "+", "\uff0b"])) + text + draw(st.sampled_from(["", ".", ".0", ".00"]))
    for mark in draw(st.lists(st.sampled_from(INVISIBLE), max_size=3)):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + mark + text[at:]
    return draw(st.sampled_from(BLANKS)) + text + draw(st.sampled_from(BLANKS))


@given(st.data(), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_numbers_are_one_login_exactly_if_they_are_one_number(
    data: st.DataObject, one: int, other: int
) -> None:
    first, second = data.draw(spelled(one)), data.draw(spelled(other))
    assert plain_login(first) == plain_login(one) == str(one)
    assert (plain_login(first) == plain_login(second)) == (one == other)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.@", min_size=1, max_size=12).filter(
    lambda text: not text.replace(".", "").isdecimal()
)


@given(NAMES, NAMES)
@example("a7", "a07")
@example("1e3", "1000e0")
def test_names_that_differ_stay_two_logins(one: str, other: str) -> None:
    """Only numeric logins are compared as numbers."""
    assert (plain_login(one) == plain_login(other)) == (one == other)


@given(st.text(max_size=20))
@example("\u0345\u1f80")
@example("e\u200b\u0301")
@example("\u3164 a")
def test_what_is_compared_is_compared_the_same_again(text: str) -> None:
    """Otherwise a normalized name would be a different identity."""
    assert plain(plain(text)) == plain(text)
    assert plain_login(plain_login(text)) == plain_login(text)
    assert plain(text.upper().casefold()) == plain(text.casefold())


def test_seven_and_zero_seven_are_one_login_at_every_gateway() -> None:
    """A venue that distinguishes them loses a second session, but no venue gets two."""
    first, second = (
        AccountConfig.model_validate(config(gateway="other", login=login).model_dump()) for login in (7, "07")
    )
    assert first.identity() == second.identity()


def test_an_account_claims_what_version_0_2_takes_for_its_identity_too() -> None:
    assert config(login="05001", server="Paper-1").identity_claims() == (
        "paper:Paper-1:05001",
        "paper:paper-1:5001",
    )
    assert config(login=5001, server="paper-1").identity_claims() == ("paper:paper-1:5001",)
    assert config(gateway="command", login=None, server=None).identity_claims() == ("command:a",)


@pytest.fixture
def directory(tmp_path: object) -> Directory:
    return Directory(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("second", ["05001", "+5001", "5001.0", "\uff15\uff10\uff10\uff11"])
def test_two_files_with_two_spellings_of_one_login_are_refused(directory: Directory, second: str) -> None:
    directory.write("a", GOOD)
    directory.write("b", GOOD.replace("5001", f'"{second}"').replace("Paper-1", "PAPER-1"))
    for account_id, other in (("a", "b"), ("b", "a")):
        errors = directory.check(account_id).errors
        assert any(f"is also the login of accounts/{other}.yaml" in error for error in errors), errors


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("login: 5001", 'login: "5001 "', "login"),
        ("login: 5001", 'login: "50\\u200b01"', "login"),
        ("login: 5001", 'login: "\\ufeff5001"', "login"),
        ("server: Paper-1", 'server: " Paper-1"', "server"),
        ("server: Paper-1", 'server: "Paper\\u00a01"', "server"),
        ("gateway: paper", 'gateway: "paper\\u200b"', "gateway"),
        ("symbol: EURUSD", 'symbol: "EURUSD\\u200b"', "currencies[0].symbol"),
        ("symbol: EURUSD", 'symbol: "EURUSD "', "currencies[0].symbol"),
    ],
)
def test_a_file_with_invisible_characters_is_refused_with_their_place(
    directory: Directory, before: str, after: str, key: str
) -> None:
    errors = directory.errors_of(GOOD.replace(before, after))
    assert any(f" {key}: " in error and "remove it" in error for error in errors), errors


def test_a_path_with_a_blank_inside_is_a_path() -> None:
    assert spelling_problem("C:/Program Files/Terminal") is None
    assert spelling_problem("M\u00fcller & S\u00f6hne") is None
