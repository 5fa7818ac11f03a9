"""Environment files of a program.

They stay on the host, and all their values are treated as secrets.

Supports `NAME=value`, `export NAME=value`, quotes, comments and blank lines; ignores a byte-order mark and
CRLF. Variables in values are not expanded. Ambiguous lines are errors: a misread value may be a wrong
password.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from manager.config import credentials
from manager.errors import CredentialError
from manager.system.regular_files import NotRegularError, read_regular_file
from manager.system.secret_text import SecretTextError, decode_text

#: Maximum size of a file in bytes.
_MAX_SIZE: Final = 256 * 1024
_START: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([^=\s#'\"]*)[ \t]*(=?)[ \t]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")
_REST: Final = re.compile(r"(?:[ \t]+#[^\n]*|[ \t]*)(?:\n|\Z)")
_COMMENT: Final = re.compile(r"\s#.*")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "$": "$"}
#: Values that are not secrets. They occur in many log lines, which masking would make unreadable.
_WORDS: Final = frozenset({"true", "false", "null", "none", "info", "debug"})
_EXPANDED: Final = re.compile(r"\$\{?[A-Za-z_]")


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A problem in a line of an environment file.

    Its text shows no content except a variable's name.
    """

    line: int | None
    text: str
    warning: bool = False


@dataclass(slots=True)
class Variables:
    """The content of an environment file."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    problems: list[FileProblem] = field(default_factory=list)


def environment_path(name: str, config_dir: Path) -> Path:
    """Return the path of a file.

    Relative names start at the configuration directory.
    """
    return Path(os.path.join(config_dir, os.path.expanduser(name)))  # noqa: PTH111, PTH118 - see credentials


def read_environment_file(name: str, config_dir: Path) -> Variables:
    """Return the variables of a file.

    Raises nothing: the result contains the problems.
    """
    path = environment_path(name, config_dir)
    try:
        raw = read_regular_file(str(path), _MAX_SIZE)
        if len(raw) > _MAX_SIZE:
            raise NotRegularError(f"is longer than the {_MAX_SIZE:,} bytes that are allowed")
        return parse_variables(decode_text(raw))
    except FileNotFoundError:
        text = "is missing on this host"
    except NotRegularError as error:
        text = str(error)
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
    except SecretTextError as error:
        text = str(error)
    return Variables(problems=[FileProblem(None, text)])


def load_environment_files(names: tuple[str, ...], config_dir: Path) -> dict[str, str]:
    """Return the variables of all files; later files have precedence.

    Raises CredentialError, whose text names file and line.
    """
    found: dict[str, str] = {}
    for name in names:
        variables = read_environment_file(name, config_dir)
        for problem in variables.problems:
            if not problem.warning:
                where = f"{environment_path(name, config_dir)}{_line(problem.line)}"
                raise CredentialError(f"environment_file: {where}: {problem.text}")
        found |= variables.values
    return found


def secrets_of(variables: dict[str, str]) -> list[str]:
    """Return the values to mask: all except a few words such as `true`."""
    return [value for value in variables.values() if value.lower() not in _WORDS]


def described(name: str, config_dir: Path) -> Iterator[tuple[str, bool]]:
    """Yield (problem with file and line, whether it is a warning).

    File permissions are checked too.
    """
    path = environment_path(name, config_dir)
    for problem in read_environment_file(name, config_dir).problems:
        yield f"{path}{_line(problem.line)}: {problem.text}", problem.warning
    open_to = credentials.too_open(SecretStr(f"file:{name}"), config_dir)
    if open_to is not None:
        yield open_to, True


def watch_file(name: str, config_dir: Path) -> Callable[[], object] | None:
    """Return a cheap change detector for a file; see `credentials.watch`."""
    return credentials.watch(SecretStr(f"file:{name}"), config_dir)


def parse_variables(text: str) -> Variables:
    """Parse the lines of a file. Raises nothing."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = Variables()
    at, size = 0, len(text)
    while at < size:
        end = text.find("\n", at)
        end = size if end < 0 else end
        if text[at:end].strip() and not text[at:end].lstrip().startswith("#"):
            end = _variable(text, at, end, found)
        at = end + 1
    return found


def _variable(text: str, at: int, end: int, found: Variables) -> int:
    """Parse the variable that begins in `text[at:end]`.

    Returns the end of its last line.
    """
    number = text.count("\n", 0, at) + 1
    start = _START.match(text, at, end)
    name, equals = (start[1], start[2]) if start is not None else ("", "")
    if start is None or not equals or not _NAME.fullmatch(name):
        found.problems.append(FileProblem(number, "is not NAME=value; begin a comment with #"))
        return end
    if name.upper().startswith("MANAGER_"):
        text_ = f"{name}: names beginning with MANAGER_ are reserved: rename the variable"
        found.problems.append(FileProblem(number, text_))
    quote = text[start.end() : start.end() + 1]
    if quote in ("'", '"'):
        closing = _closing(text, start.end() + 1, quote)
        if closing < 0:
            found.problems.append(FileProblem(number, f"{name}: the quote {quote} is not closed"))
            return len(text)
        value = text[start.end() + 1 : closing]
        rest = _REST.match(text, closing + 1)
        if rest is None:
            found.problems.append(FileProblem(number, f"{name}: something follows the closing quote"))
            end = text.find("\n", closing)
            return len(text) if end < 0 else end
        end = rest.end() - 1 if rest[0].endswith("\n") else rest.end()
        if quote == '"':
            value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), value)
    else:
        value = _COMMENT.sub("", text[start.end() : end]).strip()
        if value.startswith("#"):
            found.problems.append(
                FileProblem(number, f"{name}: # may begin a value or a comment: write the value in quotes")
            )
    if name in found.values:
        found.problems.append(
            FileProblem(number, f"{name} appears for the second time; this line is used", True)
        )
    if quote != "'" and _EXPANDED.search(value):
        found.problems.append(
            FileProblem(
                number,
                f"{name}: $NAME is not expanded, the program receives it as written; "
                "use single quotes to confirm",
                True,
            )
        )
    found.values[name] = value
    return end


def _closing(text: str, at: int, quote: str) -> int:
    """Return the closing quote's index, or -1.

    In double quotes a backslash escapes the next character.
    """
    while at < len(text):
        if text[at] == quote:
            return at
        at += 2 if quote == '"' and text[at] == "\\" else 1
    return -1


def _line(number: int | None) -> str:
    return "" if number is None else f":{number}"
