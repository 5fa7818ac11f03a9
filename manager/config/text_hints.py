"""How to write what is not a text, or a list of texts, in an account's file; shows no secret."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Final

from manager.config.placeholders import NAMES
from manager.config.problems import Place
from manager.config.secret_names import is_secret_name, secrets_of_arguments
from manager.system.masking import MASK

#: Where a text is wanted: an argument, a variable, a directory, …
_TEXTS: Final = frozenset(
    {"command", "environment", "environment_file", "directory", "user", "group", "ready", "health"}
)
#: What a shell would do something with.
_SHELL: Final = re.compile(r"[|&;<>`*?$]|\$\(|^\w+=")
#: Text that YAML reads as the same text without quotes, in a list too.
_PLAIN: Final = re.compile(r"(?:--?|\.{0,2}/)?[A-Za-z_][\w./+=-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def text_hint(place: Place, value: object) -> str | None:
    """Return what to write instead of a value of the wrong kind, if it is clear what was meant."""
    if not place or place[0] not in _TEXTS:
        return None
    if place == ("command",) and isinstance(value, str):
        return _as_list(value)
    if isinstance(value, Mapping) and len(value) == 1:
        # `[bot, {login}]` is a mapping to YAML.
        (name, inner), *_ = value.items()
        if name in NAMES and inner is None:
            return f'is a mapping, since braces mean one in YAML; write it in quotes: "{{{name}}}"'
    if value is None and place[0] in ("command", "environment") and len(place) == 2:
        return 'has no value; write "" for an empty text'
    return None


def _as_list(text: str) -> str:
    """Return the list that a command line means, arguments that look like secrets masked."""
    generic = "is a text; write a list, since no shell splits it: command: [program, argument, argument]"
    try:
        words = shlex.split(text)
    except ValueError:
        return generic
    if _SHELL.search(text):
        return f'{generic}; what a shell must read is one argument of it: command: [sh, -c, "…"]'
    if not words or len(text) > 200:
        return generic
    shown = list(words)
    for index, _kind, secret in secrets_of_arguments(tuple(words)):
        shown[index] = shown[index].replace(secret, MASK)
    for index, word in enumerate(words):
        name, equals, _value = word.lstrip("-").partition("=")
        if equals and is_secret_name(name):
            shown[index] = f"{word.partition('=')[0]}={MASK}"
    return (
        f"is a text; write it as a list, since no shell splits it: command: [{', '.join(map(_yaml, shown))}]"
    )


def _yaml(word: str) -> str:
    if _PLAIN.fullmatch(word) and word.lower() not in _WORDS:
        return word
    return word if word.isdecimal() and not word.startswith("0") else json.dumps(word, ensure_ascii=False)
