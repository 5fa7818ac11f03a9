"""The result of a validation rule."""

from dataclasses import dataclass

from manager.config.problems import Place


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that a rule found, with its place in the configuration."""

    place: Place
    text: str
    warning: bool = False
