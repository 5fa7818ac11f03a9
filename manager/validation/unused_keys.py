"""Warns about keys that an account's gateway ignores.

Without the warning such a key would seem to have an effect.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from manager.config import AccountConfig, Place
from manager.config.findings import Finding
from manager.gateways import gateway_type


def unused_keys(config: AccountConfig, written: object) -> Iterator[Finding]:
    """Warn about each key of the account's own file that its gateway ignores.

    `written` is the content of the file. Values of `defaults.yaml` apply
    to all accounts and cause no warning.
    """
    found = gateway_type(config.gateway)
    for place in () if found is None else found.ignored_keys:
        if _gives(written, place):
            text = f"has no effect with gateway {config.gateway}, which ignores it: remove it"
            yield Finding(place, text, warning=True)


def _gives(written: object, place: Place) -> bool:
    found: Any = written
    for part in place:
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True
