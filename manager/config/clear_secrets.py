"""Secrets that account files hold in clear: where they stand, and the files' text without them."""

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
#: A line of a file, or of a diff of it: `  KEY: value`, also behind a `#`.
_LINE: Final = re.compile(r"^([-+ ]?[\s#]*(?:-\s+)?[\"']?([A-Za-z][\w.-]*)[\"']?\s*:\s+)([^\s{\[|>#].*)$")


def clear_secrets(document: Document) -> list[Problem]:
    """Return what looks like a secret in a file, with its position; nothing of the secret is in it.

    A line that was commented out counts: who pushes a file pushes its comments.
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
    """Return lines of a diff between files without the secrets that the files hold in clear; `texts` are the files."""
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
    """Return the secret in a line that was commented out, if there is one."""
    found = _COMMENT.search(line)
    if found is None or not is_surely_secret(found[1]):
        return None
    value = found[2].strip("\"',")
    return value if scheme_of(value) is None and is_secret_value(found[1], value) else None


def _without_value(line: str) -> str:
    """Mask the value of a secret's line, whatever its length, also in a file that cannot be parsed."""
    found = _LINE.match(line)
    if found is None or not is_surely_secret(found[2]):
        return line
    value = found[3].strip().strip("\"'")
    return line if scheme_of(value) is not None else found[1] + MASK
