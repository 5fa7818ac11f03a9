"""Labels of hosts and accounts: `name` or `name=value`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

#: A label's name → its value; empty for a label without one.
Labels = dict[str, str]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
#: Excludes `,` and `=`, which separate labels, and what cannot be printed.
_VALUE: Final = re.compile(r"[A-Za-z0-9._:/@+-]{0,128}")


def label_problem(name: str, value: str) -> str | None:
    """Return why the label is invalid, or None."""
    if not _NAME.fullmatch(name):
        return (
            f"{name[:80]!r} is not a valid label: use at most 63 letters, digits, '.', '_', '/' and '-', "
            "beginning with a letter or digit"
        )
    if not _VALUE.fullmatch(value):
        return f"label {name}: its value must be at most 128 letters, digits, and any of . _ : / @ + -"
    return None


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects the accounts of a command.

    An account matches if it is in any of the groups and has all of the labels.
    """

    groups: tuple[str, ...] = ()
    #: `name` or `name=value`.
    labels: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, group: str | Iterable[str] | None, labels: Mapping[str, str] | None) -> "Selection":
        """Return the selection of groups and of labels with their values."""
        groups = (group,) if isinstance(group, str) else tuple(group or ())
        return cls(
            groups, tuple(f"{name}={value}" if value else name for name, value in (labels or {}).items())
        )

    def __bool__(self) -> bool:
        return bool(self.groups or self.labels)

    def __str__(self) -> str:
        parts = [f"group {' or '.join(self.groups)}"] if self.groups else []
        return " with ".join([*parts, *([", ".join(self.labels)] if self.labels else [])]) or "all accounts"

    def matches(self, groups: Iterable[str], labels: Mapping[str, str]) -> bool:
        """Return whether an account with these groups and labels is selected."""
        if self.groups and not set(self.groups) & set(groups):
            return False
        return not missing_labels(labels, self.labels)


def parse_labels(text: str) -> Labels:
    """Parse `mt5,london,desk=fx`.

    Raises ValueError, which names the invalid label.
    """
    found: Labels = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        problem = label_problem(name, value)
        if problem is not None:
            raise ValueError(problem)
        found[name] = value
    return found


def show_labels(labels: Mapping[str, str]) -> str:
    """Return labels in the form that `parse_labels` takes."""
    return ",".join(f"{name}={value}" if value else name for name, value in sorted(labels.items()))


def missing_labels(labels: Mapping[str, str], required: Iterable[str]) -> list[str]:
    """Return those of `required` that `labels` lacks.

    `name` requires the label with any value, `name=value` with this value.
    """
    missing: list[str] = []
    for one in required:
        name, equals, value = one.partition("=")
        if name not in labels or (equals and labels[name] != value):
            missing.append(one)
    return missing
