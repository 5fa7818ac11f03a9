"""Which versions of the software work together: those one minor version apart, either way. A leaf."""

import re
from typing import Final

__version__ = "0.2.0"

_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)")


def minor(version: object) -> tuple[int, int] | None:
    """Return major and minor number; None if it is no version."""
    found = _NUMBERS.match(str(version))
    return (int(found[1]), int(found[2])) if found is not None else None


def work_together(one: object, other: object) -> bool:
    """Say whether hosts and managers of these versions understand each other."""
    a, b = minor(one), minor(other)
    return a is not None and b is not None and a[0] == b[0] and abs(a[1] - b[1]) <= 1


def apart(other: object, own: str) -> str:
    """Say in words that `other` and `own` do not work together."""
    return f"version {str(other)[:40] or 'unknown'} and version {own} are more than one minor version apart"


def at_least(version: object, wanted: str) -> bool:
    """Say whether a host of `version` knows what came with `wanted`."""
    a, b = minor(version), minor(wanted)
    return a is not None and b is not None and a >= b
