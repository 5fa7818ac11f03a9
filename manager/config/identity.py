"""What tells one broker account from another, whatever its spelling; and what a name in a file may not contain.

A broker takes `5001`, `05001`, `+5001` and `5001` followed by a blank for one login, and a server's name in any case. Two
files that spell one login differently are one identity: otherwise each has a lease of its own, and two sessions trade.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

#: A login that is a number, as people and spreadsheets write it.
_NUMBER: Final = re.compile(r"\+?(\d+)(\.0*)?")
#: Format characters (zero-width spaces, marks of direction), controls and halves of characters: nobody sees them.
_INVISIBLE: Final = frozenset({"Cf", "Cc", "Cs"})
#: Blank in every font, though Unicode counts them as letters or marks.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f")
#: Digits of a number that is compared as one; more are no login, and would cost time.
_MAX_DIGITS: Final = 40


def plain(text: str) -> str:
    """Return the text as it is compared: without what nobody sees, one width and case, single blanks, one dash."""
    # Until nothing changes: a few letters leave their normal form when their case is folded, or when what stands between
    # a letter and its accent is removed.
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
    """Return a login as it is compared: one that reads as a number is that number, at every gateway.

    `7` and `07` are one login even at a venue that tells them apart: there the second is refused, which is the safe side.
    """
    text = plain(str(login))
    number = _NUMBER.fullmatch(text)
    if number is not None and len(number[1]) <= _MAX_DIGITS:
        return str(int(number[1]))
    return text


def identity(gateway: str, server: str | None, login: int | str) -> str:
    """Return the claim on one broker account. Its parts are quoted, so that no two identities read alike."""
    return f"{quote(gateway)}:{quote(plain(server or ''))}:{quote(plain_login(login))}"


def identity_as_written(gateway: str, server: str | None, login: int | str) -> str:
    """Return the claim as version 0.2 makes it: by the very bytes of the file.

    A worker claims both while versions that know only this one may be in the fleet, or a worker of theirs still runs.
    """
    return f"{quote(gateway)}:{quote(server or '')}:{quote(str(login))}"


def spelling_problem(text: str) -> str | None:
    """Return what is wrong with the characters of a name; None if nothing is."""
    if text != text.strip():
        return f"{text!r} begins or ends with white space; remove it"
    for char in text:
        if _invisible(char) or (char.isspace() and char != " "):
            name = unicodedata.name(char, f"U+{ord(char):04X}")
            return f"{text!r} contains a character that cannot be seen ({name}); remove it"
    return None


def _invisible(char: str) -> bool:
    return char in _FILLERS or unicodedata.category(char) in _INVISIBLE
