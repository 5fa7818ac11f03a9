"""Finds and masks secrets that are in account files as clear text."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from manager.config.credentials import scheme_of
from manager.config.document import Document, parse_document
from manager.config.problems import Problem, dotted
from manager.config.references import literals
from manager.config.secret_names import is_secret_value, is_surely_secret
from manager.system.masking import MASK, Masker

_COMMENT: Final = re.compile(r"(?:^|\s)#\s*(?:-\s+)?[\"']?([A-Za-z][\w.-]*)[\"']?\s*[:=]\s*(\S+)\s*$")
#: A line of a file or of a diff: `  KEY: value`, possibly after a `#`.
_LINE: Final = re.compile(r"^([-+ ]?[\s#]*(?:-\s+)?[\"']?([A-Za-z][\w.-]*)[\"']?\s*:\s+)([^\s{\[|>#].*)$")


def clear_secrets(document: Document) -> list[Problem]:
    """Return a problem for each value in a file that looks like a secret.

    The text does not contain the secret. Lines that are commented out are checked too, because a push sends
    comments as well.
    """
    found: list[Problem] = []
    for literal in literals(document.data or {}):
        line, column = document.position(literal.place) or (None, None)
        text = f"{dotted(literal.place)} looks like a secret ({literal.kind})"
        found.append(Problem(document.file, line, column, text, literal.place))
    for number, line_text in enumerate(document.text.splitlines(), start=1):
        if _commented(line_text) is not None:
            column = line_text.index("#") + 1
            found.append(Problem(document.file, number, column, "a comment looks like a secret"))
    return found


def masked_lines(lines: Iterable[str], texts: Mapping[str, str]) -> list[str]:
    """Return the lines of a diff with secrets masked.

    `texts` are the compared files (name → text); their secrets are masked wherever they appear.
    """
    mask = Masker(secret for file, text in texts.items() for secret in _secrets_of(file, text))
    return [_without_value(mask(line)) for line in lines]


def _secrets_of(file: str, text: str) -> Iterator[str]:
    document = parse_document(text, text.encode(errors="surrogatepass"), file)
    data: Mapping[str, Any] = document.data or {}
    password = data.get("password")
    if isinstance(password, str | int) and scheme_of(str(password)) is None:
        yield str(password)
    for literal in literals(data):
        yield literal.secret
    for line in text.splitlines():
        secret = _commented(line)
        if secret is not None:
            yield secret


def _commented(line: str) -> str | None:
    """Return the secret in a line that is commented out, or None."""
    found = _COMMENT.search(line)
    if found is None or not is_surely_secret(found[1]):
        return None
    value = found[2].strip("\"',")
    return value if scheme_of(value) is None and is_secret_value(found[1], value) else None


def _without_value(line: str) -> str:
    """Mask the value of a line whose key names a secret.

    Works also if the file cannot be parsed.
    """
    found = _LINE.match(line)
    if found is None or not is_surely_secret(found[2]):
        return line
    value = found[3].strip().strip("\"'")
    return line if scheme_of(value) is not None else found[1] + MASK
