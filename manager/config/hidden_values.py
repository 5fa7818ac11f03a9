"""Replaces values that may be secrets with digests, for a configuration that is kept on disk.

Two configurations hidden with the same salt can be compared: equal values have equal digests.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from manager.config.models import AccountConfig
from manager.config.problems import Place
from manager.config.secret_names import is_secret_place

#: Sections whose values are all hidden, whatever their names say.
_WHOLE: Final = ("environment", "options", "command")
_PREFIX: Final = "hidden:"
_DIGITS: Final = 32


def hide_values(config: AccountConfig, salt: bytes) -> AccountConfig:
    """Return a configuration without its password and with digests in place of what may be secret.

    That is each value of `environment`, `options` and `command`, each URL of a probe, each text among a
    strategy's parameters, and each number there whose name is that of a secret. A digest is `hidden:` and 32
    hexadecimal digits of HMAC-SHA256 with `salt`.
    """
    data = config.model_dump(mode="json", exclude={"password"})
    for name in _WHOLE:
        data[name] = _hidden(data[name], (name,), salt)
    for owner in (data.get("ready"), (data.get("health") or {}).get("probe")):
        if owner:
            owner["http"] = _hidden(owner["http"], ("http",), salt)
    for owner in (data, *data["currencies"]):
        if strategy := owner.get("strategy"):
            strategy["params"] = _hidden(strategy["params"], ("params",), salt)
    return AccountConfig.model_validate(data)


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
