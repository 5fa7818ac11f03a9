"""Error texts for values that are not a text, or not a list of texts.

They show no secrets.
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Final

from manager.config.placeholders import NAMES
from manager.config.problems import Place
from manager.config.secret_names import is_secret_name, secrets_of_arguments
from manager.system.masking import MASK

#: Keys whose values are texts: arguments, variables, directories, …
_TEXTS: Final = frozenset(
    {"command", "environment", "environment_file", "directory", "user", "group", "ready", "health"}
)
#: Text with a special meaning in a shell.
_SHELL: Final = re.compile(r"[|&;<>`*?$]|\$\(|^\w+=")
#: Text that needs no quotes in YAML, also within a list.
_PLAIN: Final = re.compile(r"(?:--?|\.{0,2}/)?[A-Za-z_][\w./+=-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def text_hint(place: Place, value: object) -> str | None:
    """Return what to write instead of a value of the wrong type, or None.

    None if the intention is unclear.
    """
    if not place or place[0] not in _TEXTS:
        return None
    if place == ("command",) and isinstance(value, str):
        return _as_list(value)
    if isinstance(value, Mapping) and len(value) == 1:
        # YAML reads `{login}` in `[bot, {login}]` as a mapping.
        (name, inner), *_ = value.items()
        if name in NAMES and inner is None:
            return f'is a mapping, since braces mean one in YAML; write it in quotes: "{{{name}}}"'
    if value is None and place[0] in ("command", "environment") and len(place) == 2:
        return 'has no value; write "" for an empty text'
    return None


def _as_list(text: str) -> str:
    """Return how to write a command line as a list.

    Arguments that look like secrets are masked.
    """
    generic = "is a text; write a list, since no shell splits it: command: [program, argument, argument]"
    try:
        words = shlex.split(text)
    except ValueError:
        return generic
    if _SHELL.search(text):
        return f'{generic}; to use a shell, give it one argument: command: [sh, -c, "…"]'
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
