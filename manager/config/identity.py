"""Normalization and checks of broker logins and server names.

A broker accepts `5001`, `05001`, `+5001` and `5001` with a trailing blank as one login, and ignores the case
of a server's name. Two spellings must be one identity: otherwise each has its own lease, and two sessions
trade.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

#: A numeric login, also with a sign or as a spreadsheet writes it.
_NUMBER: Final = re.compile(r"\+?(\d+)(\.0*)?")
#: Unicode categories of invisible characters: format characters, control characters and surrogates.
_INVISIBLE: Final = frozenset({"Cf", "Cc", "Cs"})
#: Blank in every font, although Unicode classifies them as letters or marks.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f")
#: Maximum number of digits of a numeric login. Converting longer texts costs time.
_MAX_DIGITS: Final = 40


def plain(text: str) -> str:
    """Return the text normalized for comparison.

    Removes invisible characters; unifies width, case, blanks and dashes.
    """
    # Repeated until nothing changes: some letters leave their normal form when their case is folded, or when
    # an invisible character between a letter and its accent is removed.
    before = None
    while text != before:
        before = text
        text = "".join(char for char in text if char.isspace() or not _invisible(char))
        text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        text = "".join(
            "-" if unicodedata.category(char) == "Pd" or char == "\u2212" else char for char in text
        )
    return text


def plain_login(login: int | str) -> str:
    """Return a login normalized for comparison.

    A numeric login becomes its number. `7` and `07` are one login, even at a venue that distinguishes them.
    There the second account is refused, which is safe.
    """
    text = plain(str(login))
    number = _NUMBER.fullmatch(text)
    if number is not None and len(number[1]) <= _MAX_DIGITS:
        return str(int(number[1]))
    return text


def identity(gateway: str, server: str | None, login: int | str) -> str:
    """Return the identity of a broker account.

    Its parts are quoted, so that identities are unambiguous.
    """
    return f"{quote(gateway)}:{quote(plain(server or ''))}:{quote(plain_login(login))}"


def identity_as_written(gateway: str, server: str | None, login: int | str) -> str:
    """Return the identity as version 0.2 builds it, without normalization.

    A worker claims both identities, because hosts or workers of version 0.2 may still be in the fleet.
    """
    return f"{quote(gateway)}:{quote(server or '')}:{quote(str(login))}"


def spelling_problem(text: str) -> str | None:
    """Return what is wrong with the characters of a name, or None."""
    if text != text.strip():
        return f"{text!r} begins or ends with white space; remove it"
    for char in text:
        if _invisible(char) or (char.isspace() and char != " "):
            name = unicodedata.name(char, f"U+{ord(char):04X}")
            return f"{text!r} contains an invisible character ({name}); remove it"
    return None


def _invisible(char: str) -> bool:
    return char in _FILLERS or unicodedata.category(char) in _INVISIBLE
