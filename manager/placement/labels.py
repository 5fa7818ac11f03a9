"""Labels of hosts and accounts: words, and words with a value. A leaf."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

#: A label's name → its value; empty for a word alone.
Labels = dict[str, str]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
#: No comma and no `=`: both separate; printable, since it is shown.
_VALUE: Final = re.compile(r"[A-Za-z0-9._:/@+-]{0,128}")


def label_problem(name: str, value: str) -> str | None:
    """Return what is wrong with a label, or None."""
    if not _NAME.fullmatch(name):
        return f"{name[:80]!r} is no label: letters, digits, '.', '_', '/' and '-', at most 63, the first a letter or digit"
    if not _VALUE.fullmatch(value):
        return f"label {name}: its value is at most 128 letters, digits, and any of . _ : / @ + -"
    return None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which accounts a command is for: those of any of the groups that have all of the labels."""

    groups: tuple[str, ...] = ()
    #: `name` or `name=value`.
    labels: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, group: str | Iterable[str] | None, labels: Mapping[str, str] | None) -> "Selection":
        """Build one from what callers give: one group or several, and labels with their values."""
        groups = (group,) if isinstance(group, str) else tuple(group or ())
        return cls(
            groups, tuple(f"{name}={value}" if value else name for name, value in (labels or {}).items())
        )

    def __bool__(self) -> bool:
        return bool(self.groups or self.labels)

    def __str__(self) -> str:
        parts = [f"group {' or '.join(self.groups)}"] if self.groups else []
        return " with ".join([*parts, *([", ".join(self.labels)] if self.labels else [])]) or "all accounts"

    def takes(self, groups: Iterable[str], labels: Mapping[str, str]) -> bool:
        """Say whether an account with these groups and labels is meant."""
        if self.groups and not set(self.groups) & set(groups):
            return False
        return not missing_labels(labels, self.labels)


def parse_labels(text: str) -> Labels:
    """Read `mt5,london,desk=fx`. Raises ValueError, which names the label that is none."""
    found: Labels = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        problem = label_problem(name, value)
        if problem is not None:
            raise ValueError(problem)
        found[name] = value
    return found


def show_labels(labels: Mapping[str, str]) -> str:
    """Return labels as they are written."""
    return ",".join(f"{name}={value}" if value else name for name, value in sorted(labels.items()))


def missing_labels(labels: Mapping[str, str], wanted: Iterable[str]) -> list[str]:
    """Return those of `wanted` (`name`, or `name=value`) that `labels` does not have; a name alone takes any value."""
    missing: list[str] = []
    for want in wanted:
        name, equals, value = want.partition("=")
        if name not in labels or (equals and labels[name] != value):
            missing.append(want)
    return missing
