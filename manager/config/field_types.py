"""Types of the fields of an account file, with conversion and error texts."""

import math
import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

#: Upper bound for logins, counts and times. Python accepts 400 digits; the code that uses the value does not.
_MAX_NUMBER: Final = 2**63 - 1


def number(value: object) -> object:
    # pydantic's lax mode converts between true and 1; in a configuration file that is a mistake.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic takes no TypeError
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise ValueError(f"must be at most {_MAX_NUMBER}")
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - pydantic takes no TypeError
    return value


Number = Annotated[float, BeforeValidator(number)]
Count = Annotated[int, BeforeValidator(number)]
Switch = Annotated[bool, BeforeValidator(_boolean)]


def _named(value: object) -> object:
    # YAML reads `login: 5001` and `symbol: 500` as numbers; both are names here.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_named)]


def _text(value: object) -> object:
    # Arguments and variables are texts even if they look like numbers. `manager.config.as_written` keeps the
    # spelling of a file; numbers arrive here only from a configuration that a program built.
    if isinstance(value, bool):
        raise ValueError('true or false is not a text; write it in quotes, "true"')  # noqa: TRY004 - as above
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number; write it in quotes if the text is meant")
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text)]

#: A placeholder such as `{login}`. A port may contain one; `manager.config.placeholders` lists them.
_PLACEHOLDER: Final = re.compile(r"\{[a-z_]+\}")
_OCTAL: Final = re.compile(r"(?:0o)?[0-7]{1,4}")


def _port(value: object) -> object:
    value = number(value)
    if not isinstance(value, str) or _PLACEHOLDER.search(value):
        return value
    if not value.isdecimal():
        raise ValueError("must be a port, 1 to 65535, or a text with a placeholder such as {login}")
    return int(value)


#: A port number, or a text whose placeholders are not filled in yet.
Port = Annotated[int | str, BeforeValidator(_port)]


def _umask(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 7:
        return str(value)  # one digit has the same value in octal and decimal
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError('must be octal digits in quotes: umask: "027"')  # noqa: TRY004
    if isinstance(value, int | float):
        shown = f"{value} is" if isinstance(value, int) else "it is"
        raise ValueError(  # noqa: TRY004 - pydantic takes no TypeError
            f'without quotes {shown} a decimal number; write the octal digits in quotes: umask: "027"'
        )
    if isinstance(value, str) and not (_OCTAL.fullmatch(value) and int(value.removeprefix("0o"), 8) <= 0o777):
        raise ValueError('must be octal digits from "000" to "777"')
    return value


Umask = Annotated[str, BeforeValidator(_umask)]


def _listed(value: object) -> object:
    # `avoid_sharing: server` is short for a list of one item.
    return (value,) if isinstance(value, str) else value


Avoidance = Annotated[tuple[Literal["egress_ip", "server"], ...], BeforeValidator(_listed)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]
Files = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
