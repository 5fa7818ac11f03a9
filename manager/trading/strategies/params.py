"""Reading of a strategy's parameters, with plain messages."""

from collections.abc import Mapping
from typing import Any, Final

from manager.config import suggestion
from manager.trading.strategy import ParameterError

_KINDS: Final[Mapping[type, str]] = {str: "text", list: "list", dict: "mapping"}


class Params:
    """The parameters of an account file over a strategy's defaults."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        for key in given:
            if key not in defaults:
                raise ParameterError(key, f"is not a parameter of this strategy; {suggestion(key, defaults)}")
        #: Every parameter, as the strategy spells it: an integer without a fraction, for example.
        self.values: dict[str, Any] = {**defaults, **given}

    def integer(self, key: str, least: int, most: int) -> int:
        """Return an integer within a range. Raises ParameterError."""
        value = self.values[key]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ParameterError(key, f"{_shown(value)} is not an integer; {least} to {most} is allowed")
        if not least <= value <= most:
            raise ParameterError(key, f"{value}; {least} to {most} is allowed")
        self.values[key] = value
        return value

    def number(self, key: str, least: float, most: float) -> float:
        """Return a number within a range. Raises ParameterError."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(key, f"{_shown(value)} is not a number; {least:g} to {most:g} is allowed")
        if not least <= value <= most:
            raise ParameterError(key, f"{value:g}; {least:g} to {most:g} is allowed")
        return float(value)

    def switch(self, key: str) -> bool:
        """Return a boolean. Raises ParameterError."""
        value = self.values[key]
        if not isinstance(value, bool):
            raise ParameterError(key, f"{_shown(value)} is not allowed; true or false is")
        return value

    def below(self, lower: str, upper: str) -> None:
        """Raise ParameterError unless the first parameter is below the second."""
        if not self.values[lower] < self.values[upper]:
            raise ParameterError(
                lower,
                f"{self.values[lower]} is not below {upper} ({self.values[upper]}); a lower value is allowed",
            )

    def respell(self, key: str, default: float) -> None:
        """Spell a number as the default: equal values give one strategy key."""
        value = self.values[key]
        if isinstance(default, float):
            self.values[key] = float(value)
        elif isinstance(value, float) and value.is_integer():
            self.values[key] = int(value)


def _shown(value: object) -> str:
    """Return a value for a message.

    A text is not shown, because it may be a secret.
    """
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else f"{value}"
    return "nothing" if value is None else f"a {_KINDS.get(type(value), 'value')}"
