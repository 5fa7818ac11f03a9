"""Guesses which values of an account file are secrets, by name or by form.

The guess decides what `validate` warns about, what `config push` refuses, and what is masked in output. It
never decides what a worker receives.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from manager.config.problems import Place

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")
#: Secret anywhere in a name, also without separators (`APIKEY`, `dbpassword`).
_PARTS: Final = (
    *("password", "passwd", "passphrase", "passcode", "secret", "credential", "mnemonic", "seedphrase"),
    *("apikey", "privatekey", "accesskey", "signingkey", "authkey", "encryptionkey", "masterkey"),
    *("accesstoken", "authtoken", "bottoken", "refreshtoken", "apitoken", "authorization", "bearer"),
)
#: Secret as a separate word of a name.
_WORDS: Final = frozenset({"key", "keys", "token", "tokens", "pass", "pwd", "pin", "psk", "jwt"})
#: A name with one of these as its last word describes a secret but is not one.
_ABOUT: Final = frozenset(
    {
        *("file", "files", "path", "dir", "directory", "folder", "name", "names", "length", "size", "type"),
        *("algorithm", "count", "limit", "timeout", "ttl", "seconds", "minutes", "hours", "days", "expiry"),
        *("expires", "symbol", "symbols", "enabled", "required", "header", "prefix", "policy", "hint", "url"),
        *("column", "field", "index", "address", "pair", "pairs", "decimals", "version", "env", "var"),
    }
)
#: A name with one of these as its first word is a number or a switch.
_NUMBERS: Final = frozenset({"max", "min", "num", "use", "enable", "disable", "has", "is", "require"})
#: Words that make a `key` harmless.
_OTHER_KEYS: Final = frozenset(
    {"public", "primary", "foreign", "sort", "partition", "cache", "idempotency", "routing", "id"}
)
#: Variables in which a shell stores its directory; they look like "password".
_NO_SECRETS: Final = frozenset({"PWD", "OLDPWD"})

_VALUES: Final = frozenset({"", "true", "false", "yes", "no", "on", "off", "none", "null", "~"})
#: Text that stands for a value: `$NAME`, `${NAME}`, `%NAME%`, `<your key>`, `***`.
_PLACEHOLDER: Final = re.compile(r"\$\{?\w+\}?|\$\(.*\)|%\w+%|<[^<>]*>|\*+|x{3,}|\.{3}", re.IGNORECASE)
_PATH: Final = re.compile(
    r"(?:~|\.{1,2})?/\S*[/.]\S*|[A-Za-z]:\\\S+|[\w./-]+\.(?:pem|key|crt|cer|json|p12|pfx)"
)

_URL_PASSWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@'\"]*?:([^\s/?#@'\"]+)@")
_PARAMETER: Final = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)\s?=\s?[\"']?([^\s\"'&;,]+)")
_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
)
#: `Authorization: Basic …`, or its value alone: a password in base64.
_AUTHORIZATION: Final = re.compile(
    r"(?:^(?=\w+\s+\S*[\d=])|authorization[\"']?\s*[:=]\s*[\"']?)(?:basic|bearer|token)\s+([^\s\"',]{8,})",
    re.I,
)
#: A member of a JSON object, or a header, and its value.
_MEMBER: Final = re.compile(r"([A-Za-z][\w-]*)[\"']?\s*:\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s\"'{}\[\],;()]+))")
_QUERY: Final = re.compile(r"[?&]([A-Za-z][\w.-]*)=([^\s&#\"']+)")
#: Secrets with a recognizable form: tokens of chat bots and code hosts, and webhook URLs.
_TOKEN: Final = re.compile(
    r"(?<![\w-])(?:\d{8,10}:[\w-]{35}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{16,}"
    r"|sk_live_\w{16,}|https://hooks\.slack\.com/services/\S{8,}|https://discord(?:app)?\.com/api/webhooks/\S{8,})"
)
_QUOTED: Final = r"(\"[^\"]*\"|'[^']*'|[^\s\"';|&<>]+)"
_OPTION_IN_TEXT: Final = re.compile(rf"(?<!\S)--?([A-Za-z][\w.-]*)(?:=|[ \t]+){_QUOTED}")
_ASSIGNMENT_IN_TEXT: Final = re.compile(rf"(?<![\w$.])([A-Z][A-Z0-9_]*)={_QUOTED}")
_OPTION: Final = re.compile(r"--?([A-Za-z][\w.-]*)(?:[=:](.*))?", re.S)
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][\w.-]*)=(\S*)")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return whether a value with this name is likely a secret."""
    if name in _NO_SECRETS:
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT or words[0] in _NUMBERS:
        return False
    if any(part in "".join(words) for part in _PARTS):
        return True
    found = _WORDS.intersection(words)
    return bool(found) and not (found <= {"key", "keys"} and _OTHER_KEYS.intersection(words))


def is_surely_secret(name: str) -> bool:
    """Return whether the name is unambiguously that of a secret.

    `password` and `api_key` are; `key` and `token` alone are not.
    """
    return is_secret_name(name) and any(part in "".join(_WORD.findall(name)).lower() for part in _PARTS)


def is_secret_place(place: Place) -> bool:
    """Return whether the value at a place must not be shown.

    That is the password, or a value with a secret's name.
    """
    return any(isinstance(part, str) and (part == "password" or is_secret_name(part)) for part in place)


def is_secret_value(name: str, value: str) -> bool:
    """Return whether `value`, which has a secret's name, is the secret itself.

    Switches, paths and placeholders are not.
    """
    text = value.strip()
    if text.lower() in _VALUES or _PLACEHOLDER.fullmatch(text):
        return False
    if is_surely_secret(name):
        return True
    if text.isdecimal() and len(text) < 6:
        return "pin" in (word.lower() for word in _WORD.findall(name))
    return not _PATH.fullmatch(text)


def secrets_within(value: str) -> Iterator[tuple[str, str]]:
    """Yield (description, secret) for each secret within a text.

    Finds URL passwords, parameters, private keys and tokens.
    """
    for found in _URL_PASSWORD.finditer(value):
        if is_secret_value("password", found[1]):
            yield "a URL with a password in it", found[1]
    if "=" in value:
        for found in _PARAMETER.finditer(value):
            if is_secret_name(found[1]) and is_secret_value(found[1], found[2]):
                yield f"a value of {found[1]} in it", found[2]
    for found in _KEY_BLOCK.finditer(value):
        yield "a private key", found[0]
    yield from _by_form(value)


def _by_form(text: str) -> Iterator[tuple[str, str]]:
    for found in _AUTHORIZATION.finditer(text):
        if is_secret_value("password", found[1]):
            yield "a value of an Authorization header", found[1]
    if ":" in text:
        for found in _MEMBER.finditer(text):
            value = found[2] or found[3] or found[4]
            is_header = found[1].lower() == "authorization"
            if is_surely_secret(found[1]) and not is_header and is_secret_value(found[1], value):
                yield f"a value of {found[1]}", value
    for found in _TOKEN.finditer(text):
        yield "a token, by its form", found[0]


def secrets_of_arguments(command: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield (index, description, secret) for arguments with a secret."""
    for index, argument in enumerate(command):
        option = _OPTION.fullmatch(argument) or _ASSIGNMENT.fullmatch(argument)
        if index and option and is_secret_name(option[1]):
            value, at = option[2], index
            if value is None and index + 1 < len(command) and not command[index + 1].startswith("-"):
                value, at = command[index + 1], index + 1
            if value is not None and is_secret_value(option[1], value):
                yield at, f"the value of {argument.partition('=')[0].partition(':')[0]}", value
            continue
        for kind, secret in _secrets_in_shell_text(argument):
            yield index, kind, secret


def _secrets_in_shell_text(text: str) -> Iterator[tuple[str, str]]:
    for found in _URL_PASSWORD.finditer(text):
        if is_secret_value("password", found[1]):
            yield "a URL with a password in it", found[1]
    yield from _by_form(text)
    for pattern in (_OPTION_IN_TEXT, _ASSIGNMENT_IN_TEXT, _QUERY):
        for found in pattern.finditer(text):
            value = found[2].strip("\"'")
            # Code is not a value: `API_KEY=$(cat key)`, `TOKEN=os.environ["TOKEN"]`.
            if (
                is_secret_name(found[1])
                and is_secret_value(found[1], value)
                and not value.startswith("$")
                and not set("()[]{}").intersection(value)
            ):
                yield f"a value of {found[1]}", value
