"""Input and output of a translator."""

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from manager.config.credentials import scheme_of
from manager.config.ids import id_problem
from manager.config.secret_names import is_secret_name, secrets_of_arguments, secrets_within
from manager.errors import ImportSourceError
from manager.placement.labels import label_problem

#: More accounts than this are a mistake in the source, `numprocs=100000` for example.
MAX_ACCOUNTS: Final = 5_000
_MAX_ID: Final = 64
_SWITCHES: Final = frozenset({"", "true", "false", "yes", "no", "on", "off", "none", "null"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A configuration file of another supervisor, with access to its files."""

    #: The name in messages.
    name: str
    #: The absolute directory in which relative paths start.
    directory: str
    text: str = field(repr=False)
    #: Path → text; None if the file cannot be read.
    read: Callable[[str], str | None] = field(default=lambda _path: None, repr=False)
    #: Pattern → paths.
    glob: Callable[[str], Sequence[str]] = field(default=lambda _pattern: (), repr=False)
    #: The environment of the import. Variables with a secret's name are not used.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> str:
        """Return a path of the file as an absolute path."""
        return posixpath.normpath(posixpath.join(self.directory, name))

    def variable(self, name: str) -> str | None:
        """Return a variable of the environment, or None.

        None if it is not set, or has a secret's name.
        """
        return None if is_secret_name(name) else self.variables.get(name)


@dataclass(frozen=True, slots=True)
class Note:
    """A part of the source without an equivalent, and what to do about it."""

    file: str
    line: int | None
    key: str
    text: str
    #: Whether the account behaves differently because of it.
    changes_behaviour: bool

    def __str__(self) -> str:
        line = f":{self.line}" if self.line is not None else ""
        return f"{self.file}{line}: {self.key}: {self.text}"


class Notes:
    """Collects notes, without duplicates."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._notes: dict[Note, None] = {}

    def lost(self, key: str, text: str, line: int | None = None, file: str | None = None) -> None:
        """Add a note about a difference in behaviour."""
        self._notes[Note(file or self._file, line, key, text, True)] = None

    def noted(self, key: str, text: str, line: int | None = None, file: str | None = None) -> None:
        """Add a note about a difference that does not affect the program."""
        self._notes[Note(file or self._file, line, key, text, False)] = None

    def all(self) -> tuple[Note, ...]:
        return tuple(self._notes)


@dataclass(slots=True)
class Draft:
    """The content of one account file to be written."""

    account_id: str
    #: The source, for the comment at the top of the file.
    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    #: Variable → its value in the account file: text, or a reference.
    environment: dict[str, str] = field(default_factory=dict)
    #: Variable → secret, which is written to a file of mode 0600.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    #: Tasks for the user. With any task, the account is disabled.
    to_do: list[str] = field(default_factory=list)

    def set_variable(self, name: str, value: str) -> str | None:
        """Add a variable of the program's environment.

        Returns what is wrong with its name, or None.

        A value that looks like a secret is written to a secrets file.
        """
        if not name or "=" in name or "\0" in name or "\0" in value:
            return "is not a valid environment variable; it was left out"
        if name.upper().startswith("MANAGER_"):
            return "names beginning with MANAGER_ are reserved; it was left out: rename the variable"
        self.environment.pop(name, None)
        self.secrets.pop(name, None)
        # Stricter than the warnings of `validate`: a short token or a path in a secrets file does no harm.
        named = is_secret_name(name) and value.strip().lower() not in _SWITCHES
        if named or any(secrets_within(value)):
            self.secrets[name] = value
        else:
            # A value such as `file:data.db` is text here, but would be read as a reference.
            self.environment[name] = f"literal:{value}" if scheme_of(value) is not None else value
        return None

    def set_reference(self, name: str, variable: str, *, available: bool) -> str | None:
        """Set a variable from the host agent's environment.

        Returns what is wrong with its name, or None.

        `available` says whether the import's environment has it; then the host agent's likely has it too.
        """
        problem = self.set_variable(name, "")
        if problem is None:
            self.environment[name] = f"env:{variable}"
            if not available:
                self.to_do.append(
                    f"set {variable} in the host agent's environment, or put its value into a file "
                    f"(mode 0600) and write `environment: {{{name}: file:PATH}}`"
                )
        return problem


@dataclass(frozen=True, slots=True)
class Translation:
    """The result of a translation."""

    drafts: tuple[Draft, ...]
    notes: tuple[Note, ...]


class AccountIds:
    """Generates valid, unique account IDs.

    They are unique also on file systems that ignore case.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def make(self, name: str, key: str, line: int | None = None, file: str | None = None) -> str:
        """Return the ID for a program of this name.

        Adds a note if it differs from the name.
        """
        if len(self._taken) >= MAX_ACCOUNTS:
            raise ImportSourceError(
                f"more than {MAX_ACCOUNTS} programs: import the file in parts, or reduce the processes"
            )
        account_id = valid = _valid(name)
        number = self._numbers.get(valid.lower(), 1)
        while account_id.lower() in self._taken:
            number += 1
            account_id = f"{valid[: _MAX_ID - 6]}-{number}"
        self._numbers[valid.lower()] = number
        self._taken.add(account_id.lower())
        if account_id != name:
            why = "is taken" if number > 1 else "is not a valid account id"
            self._notes.noted(key, f"the name {name[:80]!r} {why}: the account is {account_id}", line, file)
        return account_id


def _valid(name: str) -> str:
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name.strip())
    account_id = allowed.lstrip("._-")[:_MAX_ID].rstrip(".-") or "account"
    return account_id if id_problem(account_id) is None else f"account-{account_id}"[:_MAX_ID]


def group_names(names: Iterable[str]) -> list[str]:
    """Return valid group names for these names, without duplicates."""
    found: dict[str, None] = {}
    for name in names:
        usable = name if label_problem(name, "") is None else _valid(name)
        found[usable] = None
    return list(found)


def note_secret_arguments(
    draft: Draft, notes: Notes, key: str, line: int | None, file: str | None = None
) -> None:
    """Add a note for each argument that looks like a secret.

    All users of a host can see arguments.
    """
    for _index, kind, _secret in secrets_of_arguments(tuple(draft.values.get("command", ()))):
        notes.noted(
            key,
            f"{draft.account_id}: {kind} looks like a secret, and all users of the host can see a program's "
            "arguments: let the program read it from its environment, with a reference to a file",
            line,
            file,
        )
