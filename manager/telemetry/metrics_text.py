"""Prometheus's text format 0.0.4: families, labels, and figures that it can hold."""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

#: Larger figures are omitted: Prometheus refuses the whole page for a number that it cannot read.
_MOST: Final = 1e18
_MOST_DIGITS: Final = 18


class MetricsText:
    """Collects the lines of one page."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[str, object]]) -> None:
        """Add a family, unless it has no samples. `samples` are (labels in braces or empty, value)."""
        self.lines(name, kind, text, [f"{name}{labels} {value}" for labels, value in samples])

    def lines(self, name: str, kind: str, text: str, lines: list[str]) -> None:
        """Add a family whose samples are formatted lines, unless it has none."""
        if lines:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]

    def text(self) -> str:
        """Return the page."""
        return "\n".join(self._lines) + "\n"


def labels(**values: object) -> str:
    """Return labels in braces, escaped as the text format demands."""
    inside = ",".join([f'{name}="{escaped(value)}"' for name, value in values.items()])
    return f"{{{inside}}}"


def escaped(value: object) -> str:
    """Return the value of a label as the text format demands."""
    text = value if type(value) is str else str(value)
    if '"' in text or "\\" in text or "\n" in text:
        text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text


def number(value: object) -> float | int | None:
    """Return a figure that Prometheus can read; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST < value < _MOST:
        return None
    return value


def amount(value: Any) -> Decimal | None:
    """Return an amount of money that Prometheus can read; None for anything else."""
    try:
        found = Decimal(value) if isinstance(value, str | int) else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() and found.adjusted() < _MOST_DIGITS else None
