"""The version, and which versions work together.

Versions work together if they are at most one minor version apart. A leaf.
"""

import re
from typing import Final

__version__ = "0.2.0"

_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)")


def minor(version: object) -> tuple[int, int] | None:
    """Return the major and minor number; None if `version` is not a version."""
    found = _NUMBERS.match(str(version))
    return (int(found[1]), int(found[2])) if found is not None else None


def work_together(one: object, other: object) -> bool:
    """Return whether hosts and managers of these versions work together."""
    a, b = minor(one), minor(other)
    return a is not None and b is not None and a[0] == b[0] and abs(a[1] - b[1]) <= 1


def apart(other: object, own: str) -> str:
    """Return the text for people that `other` and `own` do not work together."""
    return f"version {str(other)[:40] or 'unknown'} and version {own} are more than one minor version apart"


def at_least(version: object, required: str) -> bool:
    """Return whether `version` is `required` or later."""
    a, b = minor(version), minor(required)
    return a is not None and b is not None and a >= b
