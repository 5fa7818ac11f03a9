"""Secrets of an account other than its password.

In `environment` and `options`, a value that begins with a known scheme (`env:`, `file:`, `keyring:`, or that
of a plug-in) is a reference. The host that runs the account resolves it when the worker starts.
`literal:TEXT` is always TEXT.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from manager.config import credentials
from manager.config.environment_files import load_environment_files, secrets_of, watch_file
from manager.config.models import AccountConfig
from manager.config.placeholders import fill_placeholders
from manager.config.problems import Place, dotted
from manager.config.secret_names import (
    is_secret_name,
    is_secret_value,
    is_surely_secret,
    secrets_of_arguments,
    secrets_within,
)
from manager.errors import CredentialError

#: Prefix of a text that would otherwise be read as a reference, such as a file URL of SQLite.
_LITERAL: Final = "literal:"
#: Keys of an account file in which references are resolved.
_RESOLVED: Final = ("environment", "options")


@dataclass(frozen=True, slots=True)
class Literal:
    """A value in an account file that looks like a secret in clear text.

    `kind` says why it looks like a secret, without showing it.
    """

    place: Place
    kind: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The resolved values for a worker.

    `secrets` must not be shown and include literals.
    """

    environment: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def resolve_values(config: AccountConfig, config_dir: Path) -> Resolved:
    """Return `environment` and `options` with all references resolved.

    Variables of `environment_file` are included; `environment` has precedence. The caller fills in
    placeholders.
    Raises CredentialError, whose text names the key but no secret.
    """
    secrets = [literal.secret for literal in literals(content(config))]
    from_files = load_environment_files(config.environment_file, config_dir)
    secrets += secrets_of(from_files)

    def resolved(value: Any, place: Place) -> Any:
        if isinstance(value, Mapping):
            return {key: resolved(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [resolved(inner, (*place, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value.startswith(_LITERAL):
            return value.removeprefix(_LITERAL)
        if credentials.scheme_of(value) is None:
            return value
        secret = resolve_at(place, value, config_dir)
        secrets.append(secret)
        return secret

    return Resolved(
        environment={**from_files, **resolved(config.environment, ("environment",))},
        options=resolved(config.options, ("options",)),
        secrets=tuple(dict.fromkeys(secrets)),
    )


def resolve_at(place: Place, reference: str, config_dir: Path) -> str:
    """Return the secret that a reference names.

    Raises CredentialError, whose text names the place.
    """
    try:
        return credentials.resolve(SecretStr(reference), config_dir, lines=True).get_secret_value()
    except CredentialError as error:
        raise CredentialError(f"{dotted(place)}: {error}") from None


def references(config: AccountConfig) -> Iterator[tuple[Place, str]]:
    """Yield each reference in `environment` and `options`, with its place."""
    for name in _RESOLVED:
        for place, text in _texts(getattr(config, name), (name,)):
            if not text.startswith(_LITERAL) and credentials.scheme_of(text) is not None:
                yield place, text


def watch(config: AccountConfig, config_dir: Path) -> Callable[[], object] | None:
    """Return a cheap change detector for all secrets of the account.

    None if one of their schemes has none.
    """
    config = fill_placeholders(config, None).config
    detectors = [credentials.watch(config.password, config_dir)]
    detectors += [credentials.watch(SecretStr(text), config_dir) for _, text in references(config)]
    detectors += [watch_file(name, config_dir) for name in config.environment_file]
    known = [detector for detector in detectors if detector is not None]
    if len(known) < len(detectors):
        return None
    return known[0] if len(known) == 1 else lambda: tuple(detector() for detector in known)


def content(config: AccountConfig) -> dict[str, Any]:
    """Return the parts of a configuration that may contain a secret.

    The password is not included. The structure is that of the file.
    """
    return {
        "environment": config.environment,
        "options": config.options,
        "command": config.command,
        "ready": {"http": None if config.ready is None else config.ready.http},
        "health": {"probe": {"http": None if config.health.probe is None else config.health.probe.http}},
        "strategy": {"params": {} if config.strategy is None else config.strategy.params},
        "currencies": [{"strategy": {"params": currency.strategy.params}} for currency in config.currencies],
    }


def literals(data: Mapping[str, Any]) -> Iterator[Literal]:
    """Yield values in a file that look like secrets in clear text."""
    for key, value in data.items():
        if key == "password":
            continue
        if key == "command":
            if isinstance(value, list | tuple):
                words = tuple(map(str, value))
                for index, kind, secret in secrets_of_arguments(words):
                    if credentials.scheme_of(secret) is None:
                        yield Literal(("command", index), kind, secret)
            continue
        for place, text in _texts(value, (key,)):
            yield from _literals_in(place, text)


def argument_references(command: tuple[str, ...]) -> Iterator[int]:
    """Yield the index of each argument that looks like a reference.

    References in arguments are not resolved, because all users of a host can see them.
    """
    for index, _kind, text in secrets_of_arguments(command):
        if credentials.scheme_of(text) is not None:
            yield index


def _literals_in(place: Place, text: str) -> Iterator[Literal]:
    if place[0] in _RESOLVED:
        if text.startswith(_LITERAL):
            text = text.removeprefix(_LITERAL)
        elif credentials.scheme_of(text) is not None:
            return
    # In other keys, words such as `key` and `token` often name a field or a coin instead of a secret.
    named = is_secret_name if place[0] in _RESOLVED else is_surely_secret
    names = [part for part in place[1:] if isinstance(part, str) and named(part)]
    if names:
        if is_secret_value(names[-1], text):
            yield Literal(place, "by its name", text)
        return
    for kind, secret in secrets_within(text):
        yield Literal(place, f"it holds {kind}" if kind.startswith("a ") else kind, secret)


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*place, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*place, index))
    elif isinstance(value, str):
        yield place, value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, str(value)
