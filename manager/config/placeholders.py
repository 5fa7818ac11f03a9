"""Placeholders in the program keys of an account file.

Only `{account_id}`, `{login}`, `{server}` and `{state_dir}` are replaced, so that JSON in an argument is not
changed. `{{login}}` is the text `{login}`, and `${login}` remains a shell variable. A value stays within one
argument and never becomes a reference. Values that could change a path or a shell command are errors.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from manager.config import credentials
from manager.config.models import AccountConfig
from manager.config.problems import Place, dotted
from manager.config.program_gateways import runs_programs
from manager.errors import InvalidConfigError

NAMES: Final = ("account_id", "login", "server", "state_dir")
STATE_DIR: Final = "{state_dir}"
_LITERAL: Final = "literal:"

_KNOWN: Final = re.compile(
    r"\{\{(account_id|login|server|state_dir|password)\}\}|(?<!\$)\{(account_id|login|server|state_dir)\}"
)
_PASSWORD: Final = re.compile(r"(?<![\${])\{password\}")
_ESCAPED: Final = re.compile(r"(?<!\$)\{(account_id|login|server|state_dir|password)\}")
_LIKELY: Final = re.compile(r"(?<![\${])\{\s*([A-Za-z][A-Za-z_ -]{0,20}?)\s*\}")
#: Similarity (0 to 1) from which an unknown name counts as a misspelt placeholder.
_CLOSE: Final = 0.8

#: Programs that interpret an argument as code, and the option before that argument.
_INTERPRETER: Final = re.compile(
    r"(?:ba|da|z|k|c|tc|fi|a|pw)?sh|powershell|cmd|python[\d.]*|node|bun|deno|perl|ruby|php|lua|su", re.I
)
_CODE_OPTION: Final = re.compile(r"-[A-Za-z]*[ceEr]|--?(?:command|eval|execute)|/[ck]", re.I)
#: Options of interpreters that have a value as the next argument.
_WITH_VALUE: Final = frozenset({"-W", "-X", "-o", "-O", "-I", "--rcfile", "--init-file", "--require"})
#: Characters without a special meaning in shells and programming languages.
_HARMLESS: Final = re.compile(r"(?!-)[\w.@:+,=/-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class PlaceholderProblem:
    """A placeholder that cannot be filled in, and its place."""

    place: Place
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Filled:
    """A configuration with placeholders filled in, except those with problems."""

    config: AccountConfig
    problems: tuple[PlaceholderProblem, ...]


def has_placeholders(config: AccountConfig) -> bool:
    """Return whether a program key may contain a placeholder."""
    return any("{" in text for _, text in _texts(config))


def fill_placeholders(config: AccountConfig, state_dir: Path | None) -> Filled:
    """Fill in the placeholders.

    Without `state_dir`, `{state_dir}` is not replaced.

    Raises nothing. Returns the configuration itself if there is nothing to fill in.
    """
    if not runs_programs(config.gateway) or not has_placeholders(config):
        return Filled(config, ())
    filling = _Filling(config, state_dir)
    changes = filling.changes()
    return Filled(config.model_copy(update=changes), tuple(filling.problems))


def filled(config: AccountConfig, state_dir: Path) -> AccountConfig:
    """Return the configuration with placeholders filled in.

    Raises InvalidConfigError, whose text names each wrong key.
    """
    found = fill_placeholders(config, state_dir)
    if found.problems:
        problems = "; ".join(f"{dotted(one.place)}: {one.text}" for one in found.problems)
        raise InvalidConfigError(f"{config.account_id}: {problems}")
    return found.config


def uses_state_dir(config: AccountConfig) -> bool:
    """Return whether the account's program uses `{state_dir}`."""
    return runs_programs(config.gateway) and any(
        any(found[2] == "state_dir" for found in _KNOWN.finditer(text)) for _, text in _texts(config)
    )


def misspelt(config: AccountConfig) -> Iterator[tuple[Place, str]]:
    """Yield likely misspelt placeholders, with suggestions."""
    for place, text in _texts(config):
        for found in _LIKELY.finditer(text):
            name = found[1]
            if found[0] == f"{{{name}}}" and name in (*NAMES, "password"):
                continue
            plain = re.sub(r"[ -]", "_", name.lower())
            close = difflib.get_close_matches(plain, (*NAMES, "password"), n=1, cutoff=_CLOSE)
            if close == ["password"]:
                yield place, f"{found[0]} is not a placeholder, and a password is never filled in."
            elif close:
                yield place, f"{found[0]} is not a placeholder; did you mean {{{close[0]}}}?"


def escaped(text: str) -> str:
    """Return the text with braces escaped, so that it contains no placeholder."""
    return _ESCAPED.sub(r"{{\1}}", text)


class _Filling:
    def __init__(self, config: AccountConfig, state_dir: Path | None) -> None:
        self._config = config
        self._values: dict[str, str | None] = {
            "account_id": config.account_id,
            "login": None if config.login is None else str(config.login),
            "server": config.server,
            "state_dir": STATE_DIR if state_dir is None else str(state_dir),
        }
        self.problems: list[PlaceholderProblem] = []

    def changes(self) -> dict[str, Any]:
        config = self._config
        changes: dict[str, Any] = {}
        if config.command is not None:
            changes["command"] = tuple(
                self._argument(index, text, config.command) for index, text in enumerate(config.command)
            )
        if config.directory is not None:
            changes["directory"] = self._text(("directory",), config.directory, path=True)
        changes["environment_file"] = tuple(
            self._text(("environment_file", index), text, path=True)
            for index, text in enumerate(config.environment_file)
        )
        changes["environment"] = {
            name: self._variable(name, text) for name, text in config.environment.items()
        }
        if (ready := config.ready) is not None:
            changes["ready"] = ready.model_copy(
                update={
                    "line": self._optional(("ready", "line"), ready.line),
                    "http": self._optional(("ready", "http"), ready.http),
                    "tcp": self._port(("ready", "tcp"), ready.tcp),
                }
            )
        health = config.health
        if (every := health.line_every) is not None:
            line = self._optional(("health", "line_every", "line"), every.line)
            health = health.model_copy(update={"line_every": every.model_copy(update={"line": line})})
        if (probe := health.probe) is not None:
            update = {
                "http": self._optional(("health", "probe", "http"), probe.http),
                "tcp": self._port(("health", "probe", "tcp"), probe.tcp),
            }
            health = health.model_copy(update={"probe": probe.model_copy(update=update)})
        changes["health"] = health
        return changes

    def _argument(self, index: int, text: str, command: Sequence[str]) -> str:
        place: Place = ("command", index)
        new = self._text(place, text, path=index == 0)
        if new == text:
            return text
        if _is_code(command, index):
            for name in self._names(text):
                value = self._values[name] or ""
                # The state directory is known only on the host: it is checked at the start.
                if value != STATE_DIR and not _HARMLESS.fullmatch(value):
                    self._problem(
                        place,
                        f"{{{name}}} is in an argument that the program runs as code, and its value has "
                        "characters with a special meaning there: put it into `environment` and use the "
                        'variable, as in "$LOGIN"',
                    )
                    return text
        elif new.startswith("-") and not text.startswith("-"):
            self._problem(place, f"{text} becomes an option, because the value begins with '-'")
            return text
        return new

    def _variable(self, name: str, text: str) -> str:
        scheme = credentials.scheme_of(text)
        new = self._text(("environment", name), text, path=scheme is not None)
        # A placeholder's value must not turn a text into a reference.
        was_text = scheme is None and not text.startswith(_LITERAL)
        if was_text and new != text and (credentials.scheme_of(new) or new.startswith(_LITERAL)):
            return _LITERAL + new
        return new

    def _optional(self, place: Place, text: str | None) -> str | None:
        return None if text is None else self._text(place, text)

    def _port(self, place: Place, value: int | str | None) -> int | str | None:
        if not isinstance(value, str):
            return value
        new = self._text(place, value)
        if any(one.place == place for one in self.problems):
            return value
        if not re.fullmatch(r"[0-9]{1,5}", new):
            self._problem(place, f"{value} is {new[:40]!r}, which is not a port; 1 to 65535 is allowed")
            return value
        return int(new)

    def _text(self, place: Place, text: str, *, path: bool = False) -> str:
        if _PASSWORD.search(text):
            self._problem(
                place,
                "a password is never filled in, because other users could see it: refer to it in "
                "`environment` (`NAME: file:secrets/…`, env: or keyring:), or let the program read "
                "MANAGER_CREDENTIALS_FILE; {{password}} is the text {password}",
            )
            return text
        for name in self._names(text):
            value = self._values[name]
            if value is None or value == "":
                self._problem(place, f"{{{name}}} has no value: this account has no `{name}`")
                return text
            if "\0" in value:
                self._problem(place, f"{{{name}}}: the value contains a NUL character")
                return text
            if path and name in ("login", "server") and _leads_elsewhere(value):
                self._problem(
                    place,
                    f"{{{name}}} is {value[:60]!r} here, which leads to another directory: a value with "
                    "'/', '\\', '..' or '~' may not be part of a path",
                )
                return text
        return _KNOWN.sub(self._replacement, text)

    def _replacement(self, found: re.Match[str]) -> str:
        return f"{{{found[1]}}}" if found[1] else self._values[found[2]] or ""

    @staticmethod
    def _names(text: str) -> list[str]:
        return list(dict.fromkeys(found[2] for found in _KNOWN.finditer(text) if found[2]))

    def _problem(self, place: Place, text: str) -> None:
        self.problems.append(PlaceholderProblem(place, text))


def _leads_elsewhere(value: str) -> bool:
    return value in (".", "..") or value.startswith("~") or any(part in value for part in ("/", "\\", ".."))


def _is_code(command: Sequence[str], index: int) -> bool:
    """Return whether an argument is code, as in `sh -c TEXT`.

    Arguments after the code, or after a script's name, are not code.
    """
    for start, word in enumerate(command[:index]):
        name = re.split(r"[/\\]", word)[-1].removesuffix(".exe")
        if not _INTERPRETER.fullmatch(name):
            continue
        at = start + 1
        while at < index and command[at].startswith(("-", "/")):
            if _CODE_OPTION.fullmatch(command[at]) and (index == at + 1 or name.lower() == "cmd"):
                return True
            at += 2 if command[at] in _WITH_VALUE else 1
    return False


def _texts(config: AccountConfig) -> Iterator[tuple[Place, str]]:
    """Yield each text in which placeholders are replaced."""
    given: Mapping[Place, object] = {
        ("directory",): config.directory,
        **{("command", index): text for index, text in enumerate(config.command or ())},
        **{("environment_file", index): text for index, text in enumerate(config.environment_file)},
        **{("environment", name): text for name, text in config.environment.items()},
    }
    for place, text in given.items():
        if isinstance(text, str):
            yield place, text
    ready, every, probe = config.ready, config.health.line_every, config.health.probe
    for place, text in (
        (("ready", "line"), None if ready is None else ready.line),
        (("ready", "http"), None if ready is None else ready.http),
        (("ready", "tcp"), None if ready is None else ready.tcp),
        (("health", "line_every", "line"), None if every is None else every.line),
        (("health", "probe", "http"), None if probe is None else probe.http),
        (("health", "probe", "tcp"), None if probe is None else probe.tcp),
    ):
        if isinstance(text, str):
            yield place, text
