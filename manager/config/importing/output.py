"""Renders a draft as an account file and one file for each secret."""

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

from manager.config.importing.drafts import Draft
from manager.config.placeholders import escaped
from manager.system.text import printable

#: Text that every YAML parser reads as the same text without quotes.
#: Texts that need no quotes. One that begins with `_` may be a number to some YAML parsers, as `_0`.
_PLAIN: Final = re.compile(r"(?:--?|\./|(?:file|env):)?[A-Za-z/][A-Za-z0-9_./+-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_ORDER: Final = (
    "enabled",
    "gateway",
    "groups",
    "labels",
    "command",
    "directory",
    "user",
    "group",
    "umask",
    "ready",
    "stop",
)
_WIDTH: Final = 100


def account_path(account_id: str) -> str:
    """Return an account's file below the configuration directory."""
    return f"accounts/{account_id}.yaml"


def _secret_path(account_id: str, variable: str, taken: Container[str]) -> str:
    """Return the path of a secret's file, unique per account and variable."""
    # The variable's name follows the last dot, because an account ID may contain dots.
    stem = path = f"secrets/{account_id}.{re.sub(r'[^A-Za-z0-9_-]', '_', variable)}"
    number = 1
    while path in taken:
        number += 1
        path = f"{stem}-{number}"
    return path


def account_files(draft: Draft) -> dict[str, str]:
    """Return path below the configuration directory → content.

    The account's own file is first.
    """
    environment = dict(draft.environment)
    files: dict[str, str] = {}
    for variable, secret in draft.secrets.items():
        path = _secret_path(draft.account_id, variable, files)
        environment[variable] = f"file:{path}"
        files[path] = secret + "\n"
    values = {"gateway": "command", **{key: _as_text(key, value) for key, value in draft.values.items()}}
    environment = {name: escaped(value) for name, value in environment.items()}
    if draft.to_do:
        values["enabled"] = False
    if environment:
        values["environment"] = environment
    ordered = {key: values.pop(key) for key in _ORDER if key in values} | values
    return {account_path(draft.account_id): "\n".join(_lines(draft, ordered)) + "\n", **files}


def _as_text(key: str, value: Any) -> Any:
    """Return a value with braces escaped.

    In another supervisor's file, braces are not placeholders.
    """
    if key not in ("command", "directory", "environment_file"):
        return value
    return escaped(value) if isinstance(value, str) else [escaped(word) for word in value]


def _lines(draft: Draft, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Imported from {_comment(draft.origin)}."
    if draft.to_do:
        yield "# Before you set `enabled: true`:"
        for what in draft.to_do:
            yield f"#  - {_comment(what)}"
    for key, value in values.items():
        flow = f"{key}: {_flow(value)}"
        if not isinstance(value, Mapping | list | tuple) or len(flow) <= _WIDTH:
            yield flow
        elif isinstance(value, Mapping):
            yield f"{key}:"
            for name, inner in value.items():
                yield f"  {_flow(str(name))}: {_flow(inner)}"
        else:
            yield f"{key}:"
            for inner in value:
                yield f"  - {_flow(inner)}"


def _comment(text: str) -> str:
    return printable(" ".join(text.split()))


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        quoted = json.dumps(value, ensure_ascii=False)
        return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
    return json.dumps(value)
