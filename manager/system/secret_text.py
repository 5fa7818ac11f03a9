"""Reads secrets from text, and refuses text whose secret is ambiguous.

Brokers lock an account after a few wrong passwords, so nothing is guessed. Only a byte-order mark and one
line end are removed, because neither can be part of a typed secret.
"""

import codecs
import unicodedata
from typing import Final

_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
#: Unicode categories of invisible characters: controls, format marks, line and paragraph separators,
#: surrogates, private and unassigned characters.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})
#: Characters that are invisible although their category is letter or mark.
_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\ufe0e\ufe0f\ufffd")


class SecretTextError(ValueError):
    """Raised when a secret is ambiguous.

    Its text contains nothing of the secret.
    """


def decode_text(raw: bytes) -> str:
    """Return a file's text without a byte-order mark.

    Raises SecretTextError unless it is UTF-8.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            raise SecretTextError(f"is {encoding} text; save it as UTF-8 without a byte-order mark")
    if b"\0" in raw:
        raise SecretTextError(
            "holds a NUL byte; save it as UTF-8 text (UTF-16 without a mark looks like this)"
        )
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise SecretTextError("is not UTF-8 text; save it as UTF-8") from None


def decode_secret(raw: bytes, *, lines: bool = False) -> str:
    """Return the secret in a file's bytes.

    With `lines` it may have several lines, like a key. Raises SecretTextError.
    """
    return clean_secret(decode_text(raw), lines=lines)


def clean_secret(text: str, *, lines: bool = False) -> str:
    """Return the secret without its final line end; empty stays empty.

    Raises SecretTextError.
    """
    for end in ("\r\n", "\n", "\r"):
        if text.endswith(end):
            text = text.removesuffix(end)
            break
    if lines:
        text = text.replace("\r\n", "\n")
    problem = secret_problem(text, lines=lines)
    if problem is not None:
        raise SecretTextError(problem)
    return text


def secret_problem(text: str, *, lines: bool = False) -> str | None:
    """Return why a secret is ambiguous, without any of its characters.

    None if it is not.
    """
    if not text:
        return None
    if not lines and "\n" in text.strip("\n"):
        return "has more than one line; keep the secret alone in it, on one line"
    if text[0].isspace() or text[-1].isspace():
        where = "begins" if text[0].isspace() else "ends"
        return f"{where} with a blank or an empty line; remove it, since it would be part of the secret"
    for place, letter in enumerate(text, start=1):
        if letter in ("\n\t" if lines else ""):
            continue
        if unicodedata.category(letter) in _UNSEEN or letter in _BLANK_LETTERS:
            kind = "a control character" if unicodedata.category(letter) == "Cc" else "an invisible character"
            return f"holds {kind} (U+{ord(letter):04X}, character {place}); type the secret again without it"
        if letter.isspace() and letter != " ":
            what = f"an unusual blank (U+{ord(letter):04X}, character {place})"
            return f"holds {what}; type the secret again without it"
    return None
