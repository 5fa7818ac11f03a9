"""Replaces values that may be secrets with digests, for a configuration that is kept on disk.

Two configurations hidden with the same salt can be compared: equal values have equal digests.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

from manager.config.credentials import scheme_of
from manager.config.models import AccountConfig
from manager.config.problems import Place
from manager.config.secret_names import is_secret_place

#: Sections whose values are all hidden, whatever their names say.
_WHOLE: Final = ("environment", "options", "command")
_PREFIX: Final = "hidden:"
_DIGITS: Final = 32


def hide_values(config: AccountConfig, salt: bytes) -> AccountConfig:
    """Return a configuration with digests in place of what may be secret.

    These are a literal password, each value of `environment`, `options` and `command`, each URL of
    a probe, each text among a strategy's parameters, and each number there whose name is that of a secret. A
    digest is `hidden:` and 32 hexadecimal digits of HMAC-SHA256 with `salt`.
    """
    data = dump_with_password(config)
    if data["password"] is not None and scheme_of(data["password"]) is None:
        data["password"] = _hidden(data["password"], ("password",), salt)
    for name in _WHOLE:
        data[name] = _hidden(data[name], (name,), salt)
    for owner in (data.get("ready"), (data.get("health") or {}).get("probe")):
        if owner:
            owner["http"] = _hidden(owner["http"], ("http",), salt)
    for owner in (data, *data["currencies"]):
        if strategy := owner.get("strategy"):
            strategy["params"] = _hidden(strategy["params"], ("params",), salt)
    return AccountConfig.model_validate(data)


def show_values(hidden: AccountConfig, source: AccountConfig, salt: bytes) -> AccountConfig | None:
    """Return a hidden configuration with its values, as far as `source` has the same ones in the same places.

    None if a value of it is not in `source`.
    """
    try:
        data = _shown(
            dump_with_password(hidden),
            dump_with_password(hide_values(source, salt)),
            dump_with_password(source),
        )
    except _UnknownValueError:
        return None
    return AccountConfig.model_validate(data)


def dump_with_password(config: AccountConfig) -> dict[str, Any]:
    """Return the JSON form of a configuration with its password, which is a reference or a secret."""
    data = config.model_dump(mode="json", exclude={"password"}, by_alias=True)
    return {**data, "password": None if config.password is None else config.password.get_secret_value()}


def _hidden(value: Any, place: Place, salt: bytes) -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden(inner, (*place, str(name)), salt) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(inner, place, salt) for inner in value]
    shown = value is None or isinstance(value, bool)
    if shown or (not isinstance(value, str) and place[0] not in _WHOLE and not is_secret_place(place)):
        return value
    # With its type, so that 1 and "1" differ.
    text = f"{type(value).__name__}:{value}"
    return _PREFIX + hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:_DIGITS]


class _UnknownValueError(Exception):
    pass


def _shown(hidden: Any, source_hidden: Any, source: Any) -> Any:
    if isinstance(hidden, Mapping):
        of_hidden = source_hidden if isinstance(source_hidden, Mapping) else {}
        of_source = source if isinstance(source, Mapping) else {}
        return {key: _shown(one, of_hidden.get(key), of_source.get(key)) for key, one in hidden.items()}
    if isinstance(hidden, list):
        of_hidden, of_source = _by_symbol(source_hidden), _by_symbol(source)
        keys = [_key(one, at) for at, one in enumerate(hidden)]
        return [
            _shown(one, of_hidden.get(key), of_source.get(key)) for key, one in zip(keys, hidden, strict=True)
        ]
    if not (isinstance(hidden, str) and hidden.startswith(_PREFIX)):
        return hidden
    if hidden != source_hidden:
        raise _UnknownValueError
    return source


def _by_symbol(values: Any) -> dict[Any, Any]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return {}
    return {_key(one, at): one for at, one in enumerate(values)}


def _key(value: Any, at: int) -> Any:
    """Return what identifies a list's value: a currency's symbol, else its place."""
    return value.get("symbol", at) if isinstance(value, Mapping) else at
