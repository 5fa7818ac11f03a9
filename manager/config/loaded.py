"""One account as read from its files: configuration or problems."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from manager.config.document import Document
from manager.config.merge import merge, sources, with_currency_defaults
from manager.config.models import BUILT_IN, AccountConfig, GlobalDefaults
from manager.config.placeholders import fill_placeholders
from manager.config.problems import Place, Problem, dotted
from manager.config.program_defaults import applicable_defaults
from manager.config.references import Literal, content, literals
from manager.config.secret_names import is_secret_place
from manager.config.text_hints import text_hint
from manager.config.unknown_keys import explain_unknown_key
from manager.system.masking import MASK

_MISSING: Final = object()
#: Sections whose values may be secret whatever their name is.
_MAY_BE_SECRET: Final = frozenset({"environment", "options"})
#: Keys whose values may contain secrets even with the wrong type, and the expected type.
_HIDDEN: Final[Mapping[Place, str]] = {
    ("environment",): "a mapping; write `NAME: value` lines",
    ("options",): "a mapping; write `key: value` lines",
    ("command",): "a list; write [program, argument, argument]",
    ("environment_file",): "a file's name, or a list of them",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """A value and its source: `file:line` or `built-in`."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True)
class LoadedAccount:
    """The result of reading an account's files.

    `config` is None if there are problems. `repaired` is built without the values that have problems, so that
    the validation rules can report all other problems in the same pass; it may be None too.
    """

    account_id: str
    file: str
    config: AccountConfig | None
    repaired: AccountConfig | None
    problems: tuple[Problem, ...]
    layers: tuple[Document, ...]
    apply_defaults: bool

    def locate(self, place: Place, *, key: bool = False) -> tuple[str, int | None, int | None]:
        """Return file, line and column of the value at `place`.

        If the files have no such value, of the nearest section around it.
        """
        around = place
        while True:
            for document in self.layers:
                for source in sources(around):
                    position = document.position(source, key=key and around == place)
                    if position is not None and (around or document is self.layers[0]):
                        return document.file, *position
            if not around:
                return self.file, None, None
            around = around[:-1]

    def problem(self, place: Place, text: str, *, key: bool = False) -> Problem:
        """Return a problem at `place` with its position."""
        file, line, column = self.locate(place, key=key)
        return Problem(file, line, column, f"{dotted(place)}: {text}" if place else text, place)

    def shown(self) -> dict[str, Any]:
        """Return the configuration as JSON data with secrets masked.

        Empty if there is no `config`.

        Placeholders are filled in, except `{state_dir}`, whose value differs by host.
        """
        if self.config is None:
            return {}
        config = fill_placeholders(self.config, None).config
        data = config.model_dump(mode="json")
        if config.password is not None:
            # A reference could be shown but a literal could not, so both are masked.
            data["password"] = MASK
        for literal in literals(content(config)):
            _hide(data, literal)
        return data

    def origins(self) -> list[Origin]:
        """Return every value of the configuration with its origin.

        Empty if there is no `config`.
        """
        data = self.shown()
        for name in ("account_id", "strategy", "position_management"):
            data.pop(name, None)
        return [Origin(dotted(place), value, self._origin(place)) for place, value in _leaves(data, ())]

    def _origin(self, place: Place) -> str:
        for source in sources(place):
            for document in self.layers:
                position = document.position(source)
                if position is not None:
                    return f"{document.file}:{position[0]}"
            if self.apply_defaults and _at(BUILT_IN, source) is not _MISSING:
                return "built-in"
        return "built-in"


@dataclass(frozen=True, slots=True)
class Defaults:
    """The content of `defaults.yaml`, alone and with built-in defaults."""

    document: Document
    merged: Mapping[str, Any]


def load(account_id: str, account: Document, defaults: Defaults | None) -> LoadedAccount:
    """Build the configuration from the documents.

    With `defaults` None, no defaults are applied.
    """
    layers = (account,) if defaults is None else (account, defaults.document)
    if account.data is None:
        return LoadedAccount(
            account_id, account.file, None, None, account.problems, layers, defaults is not None
        )
    data = account.data
    if defaults is not None:
        data = with_currency_defaults(merge(applicable_defaults(defaults.merged, data), data))
    given_id = data.get("account_id", account_id)
    found = LoadedAccount(account_id, account.file, None, None, (), layers, defaults is not None)
    problems = list(defaults.document.problems) if defaults is not None else []
    if given_id != account_id:
        text = (
            f"is {given_id!r}, but the file's name is {account_id}.yaml: remove the key, or rename the file"
        )
        problems.append(found.problem(("account_id",), text))
    config: AccountConfig | None = None
    repaired: AccountConfig | None = None
    try:
        config = repaired = AccountConfig.model_validate({**data, "account_id": account_id})
        if not problems:
            return LoadedAccount(account_id, account.file, config, config, (), layers, defaults is not None)
    except ValidationError as error:
        problems += structural_problems(found, error, AccountConfig)
        repaired = _repair({**data, "account_id": account_id}, error)
    if problems:
        config = None
    return LoadedAccount(
        account_id,
        account.file,
        config,
        repaired,
        # Problems of the defaults also concern the account.
        tuple(dict.fromkeys(problems)),
        layers,
        defaults is not None,
    )


def defaults_problems(document: Document) -> tuple[Problem, ...]:
    """Return the problems of `defaults.yaml` itself."""
    if document.data is None:
        return document.problems
    try:
        GlobalDefaults.model_validate(document.data)
    except ValidationError as error:
        found = LoadedAccount("", document.file, None, None, (), (document,), False)
        return tuple(structural_problems(found, error, GlobalDefaults))
    return ()


def structural_problems(
    found: LoadedAccount, error: ValidationError, model: type[BaseModel], skip: int = 0
) -> Iterable[Problem]:
    """Convert pydantic's errors to problems with positions and suggestions.

    `model` describes the keys after the first `skip` parts of a place.
    """
    seen: set[Place] = set()
    for entry in error.errors(include_url=False, include_input=True):
        place: Place = tuple(part for part in entry["loc"] if not _is_union_branch(part))
        if place in seen:
            continue
        seen.add(place)
        kind = entry["type"]
        if kind == "extra_forbidden":
            yield found.problem(place, f"unknown key; {explain_unknown_key(model, place[skip:])}", key=True)
        elif kind == "missing":
            file, line, column = found.locate(place[:-1])
            yield Problem(file, line, column, f"{dotted(place)}: is missing", place)
        else:
            yield found.problem(place, _type_error_text(entry))


def _type_error_text(entry: Any) -> str:
    kind, message = entry["type"], entry["msg"].removeprefix("Value error, ")
    hint = text_hint(tuple(entry["loc"]), entry.get("input"))
    if hint is not None:
        return hint
    within = entry["loc"][0] in _MAY_BE_SECRET and len(entry["loc"]) > 1
    if within or is_secret_place(entry["loc"][1:]) or tuple(entry["loc"]) in _HIDDEN:
        expected = _HIDDEN.get(
            tuple(entry["loc"]), "a text, a number, or a reference (env:, file: or keyring:)"
        )
        return f"is not {expected}; its value is not shown because it may be a secret"
    if entry["loc"][0] == "password":
        return "is not a text; write it as a reference (env:, file: or keyring:), or in quotes"
    shown = _shown(entry.get("input"))
    if kind.startswith("int"):
        return f"{shown} is not an integer"
    if kind == "finite_number":
        return f"{shown} is not finite; write a number"
    if kind.startswith("float"):
        return f"{shown} is not a number"
    if kind in {"model_type", "dict_type", "mapping_type"}:
        return f"{shown} is not a mapping; write `key: value` lines"
    if kind in {"tuple_type", "list_type"}:
        return f"{shown} is not a list"
    if kind.startswith("string"):
        return f"{shown} is not a text"
    if kind == "literal_error":
        return f"{shown} is not allowed; {message[0].lower()}{message[1:]}"
    return f"{shown}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hide(data: Any, literal: Literal) -> None:
    """Mask a secret at its place in configuration data."""
    *around, last = literal.place
    for part in around:
        data = data[part]
    value = data[last]
    text = value if isinstance(value, str) else str(value)
    data[last] = text.replace(literal.secret, MASK)


def _repair(data: dict[str, Any], error: ValidationError) -> AccountConfig | None:
    """Validate again with built-in defaults instead of the wrong values."""
    places = sorted({tuple(e["loc"]) for e in error.errors(include_url=False)}, key=len, reverse=True)
    repaired: Any = _copy(data)
    for place in places:
        _drop(repaired, tuple(part for part in place if not _is_union_branch(part)))
    currencies = repaired.get("currencies")
    if isinstance(currencies, list):
        repaired["currencies"] = [c for c in currencies if isinstance(c, dict) and "symbol" in c]
    repaired = with_currency_defaults(merge(BUILT_IN, repaired))
    repaired.setdefault("gateway", "")
    try:
        return AccountConfig.model_validate(repaired)
    except ValidationError:
        return None


def _drop(data: Any, place: Place) -> None:
    for part in place[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(data, dict):
        data.pop(place[-1], None)
    elif isinstance(data, list) and isinstance(place[-1], int) and place[-1] < len(data):
        data[place[-1]] = None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _is_union_branch(part: object) -> bool:
    return part in ("int", "str") or (isinstance(part, str) and part.startswith(("function-", "json-")))


def _leaves(value: Any, place: Place) -> Iterable[tuple[Place, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*place, index))
    elif value is not None and value not in ({}, []):
        yield place, value


def _at(data: Mapping[str, Any], place: Place) -> Any:
    current: Any = data
    for part in place:
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return current
