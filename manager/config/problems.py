"""Problems in configuration files."""

from dataclasses import dataclass

#: A place in a configuration: the path of keys and list indexes from the top.
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a file.

    Its text form is `file:line:column: what is wrong, what is allowed`.
    """

    file: str
    line: int | None
    column: int | None
    text: str
    #: The place in the configuration, or None if the problem concerns the whole file.
    place: Place | None = None

    def __str__(self) -> str:
        position = f":{self.line}:{self.column}" if self.line is not None else ""
        return f"{self.file}{position}: {self.text}"


def dotted(place: Place) -> str:
    """Return a place as text, for example `currencies[0].risk.risk_percent`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text
