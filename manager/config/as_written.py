"""Restores texts that YAML reads as numbers or booleans.

Arguments and environment variables are texts. The program receives what the file shows: `0.50` does not
become `0.5`, and `true` does not become `True`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from manager.config.document import Document
from manager.config.problems import Place

_EACH: Final = object()
#: Paths of keys that hold texts; `_EACH` stands for every key or index.
_TEXTS: Final[tuple[tuple[object, ...], ...]] = (
    ("command", _EACH),
    ("environment", _EACH),
    ("environment_file",),
    ("environment_file", _EACH),
    ("directory",),
    ("user",),
    ("group",),
    ("ready", "line"),
    ("health", "line_every", "line"),
)
#: A file without any of these contains no integer whose spelling differs from its decimal digits.
_MARKS: Final = ("0x", "0o", "0X", "0O", "+", "-0")


def as_written(document: Document) -> Document:
    """Return the document with these values as texts."""
    data = document.data
    if data is None:
        return document
    changed = data
    for pattern in _TEXTS:
        for place, value in _scalars(data, pattern, ()):
            text = _source(document, place, value)
            if text is not None:
                changed = _with(changed, place, text)
    umask = data.get("umask")
    if isinstance(umask, int):
        # Only this spelling is clearly octal. For others the model reports what to write.
        octal = document.source(("umask",))
        if octal is not None and octal.startswith("0o"):
            changed = _with(changed, ("umask",), octal)
    environment = changed.get("environment")
    if isinstance(environment, Mapping) and any(type(name) is int for name in environment):
        named = {str(name) if type(name) is int else name: value for name, value in environment.items()}
        changed = {**changed, "environment": named}
    return document if changed is data else replace(document, data=changed)


def _scalars(value: Any, pattern: tuple[object, ...], place: Place) -> Iterator[tuple[Place, int | float]]:
    """Yield the numbers and booleans at the places of a pattern."""
    if not pattern:
        if isinstance(value, int | float):
            yield place, value
        return
    key, *rest = pattern
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if key is _EACH or key == name:
                yield from _scalars(inner, tuple(rest), (*place, name))
    elif isinstance(value, list) and key is _EACH:
        for index, inner in enumerate(value):
            yield from _scalars(inner, tuple(rest), (*place, index))


def _source(document: Document, place: Place, value: float) -> str | None:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None  # `.inf` and `.nan` stay numbers and are rejected: the intention is unclear
    if type(value) is int and not any(mark in document.text for mark in _MARKS):
        return str(value)
    # The slow parser takes milliseconds, so only these values are looked up with it.
    return document.source(place)


def _with(data: Any, place: Place, text: str) -> Any:
    """Return a copy of the data with a text at a place."""
    key, *rest = place
    inner = text if not rest else _with(data[key], tuple(rest), text)
    if isinstance(data, list):
        return [inner if index == key else one for index, one in enumerate(data)]
    return {**data, key: inner}
