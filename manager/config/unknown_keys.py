"""Error texts for unknown keys, with suggestions."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from manager.config.migrant_keys import TOP, WITHIN, MigrantKey, normal
from manager.config.models import BUILT_IN, AccountConfig, GlobalDefaults
from manager.config.problems import Place, dotted

#: Sections that have the same keys as another section.
_LIKE: Final[Mapping[str, str]] = {"default_risk": "risk"}
#: Parameters of the built-in strategy. Files of other programs often have them without `params`.
_STRATEGY_PARAMS: Final = frozenset(BUILT_IN["strategy"]["params"])


def explain_unknown_key(model: type[BaseModel], place: Place) -> str:
    """Return the error text for the unknown key at `place` of `model`."""
    key = str(place[-1])
    known = keys_at(model, place[:-1])
    section = next((str(part) for part in reversed(place[:-1]) if isinstance(part, str)), None)
    found = _same_but_for_case(key, known)
    if found is not None:
        return f"did you mean {found!r}?"
    row = (TOP if section is None else WITHIN.get(_LIKE.get(section, section), {})).get(normal(key))
    if row is not None:
        return _explain(row, key, place[:-1], model)
    if section == "strategy":
        return f"a strategy's own values belong below params: write {dotted((*place[:-1], 'params', key))}"
    return _misplaced(key, place, model) or suggestion(key, known)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `did you mean X?`, or the allowed words if none is similar.

    Case is ignored.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:
        folded = {name.casefold(): name for name in names}
        close = [folded[name] for name in difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)]
    return f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(names)}"


def keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """Return the keys that a section may contain.

    Empty if the place is not a section.
    """
    current: Any = model
    for part in place:
        if isinstance(part, int):
            continue
        field = _fields(current).get(part)
        current = None if field is None else _model_in(field.annotation)
        if current is None:
            return []
    return [name for name in _fields(current) if name != "account_id"]


def all_keys(model: type[BaseModel], around: Place = ()) -> Iterator[Place]:
    """Yield every key of a model and of its sections."""
    for name, field in _fields(model).items():
        yield (*around, name)
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from all_keys(inner, (*around, name))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their keys in files."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _same_but_for_case(key: str, known: list[str]) -> str | None:
    # `Timeout` and `time-out` are misspelt, but `Requires` is a key of systemd with another meaning.
    row = TOP.get(normal(key))
    if row is not None and not row.ours:
        return None
    return next((name for name in known if normal(name) == normal(key)), None)


def _explain(row: MigrantKey, key: str, around: Place, model: type[BaseModel]) -> str:
    whose = f"{key} ({row.of})" if row.of else key
    if not row.ours:
        return f"{whose} is not supported: {row.text}"
    names = [dotted((*around, *name.split("."))) for name in row.ours]
    where = ""
    if model is GlobalDefaults and not around:
        fields = GlobalDefaults.model_fields
        where = "" if any(name.split(".")[0] in fields for name in row.ours) else " (in the account's file)"
    return f"{whose} is {' and '.join(map(repr, names))} here{where}: {row.text}"


def _misplaced(key: str, place: Place, model: type[BaseModel]) -> str | None:
    """Return where a misplaced key belongs, or None.

    None if there is not exactly one place.
    """
    around = place[:-1]
    if model is GlobalDefaults and not around and key in AccountConfig.model_fields:
        return f"{key!r} belongs to one account: write it in the account's file"
    if key in _STRATEGY_PARAMS:
        inner = around if around and around[0] == "currencies" else ()
        return f"write {dotted((*inner, 'strategy', 'params', key))}"
    below = dict.fromkeys(keys_at(model, around))
    inside = [found for found in all_keys(model) if found[-1] == key and found[:-1] != _names(around)]
    near = [
        found
        for found in inside
        if found[: len(_names(around))] == _names(around) and found[len(_names(around))] in below
    ]
    candidates = near or inside
    candidates = [found for found in candidates if found[0] != "currencies"] or candidates
    if len(candidates) != 1:
        return None
    right = (*around, *candidates[0][len(_names(around)) :]) if near else candidates[0]
    return f"it is in the wrong place: write {dotted(right)}"


def _names(place: Place) -> Place:
    return tuple(part for part in place if isinstance(part, str))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
