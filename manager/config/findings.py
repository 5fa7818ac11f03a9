"""What a validation rule returns."""

from dataclasses import dataclass

from manager.config.problems import Place


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found, and where."""

    place: Place
    text: str
    warning: bool = False
