"""Checks an account's secrets on this host.

The checks find references that cannot be resolved and secrets in clear text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from manager.config import AccountConfig, Place, credentials, literals
from manager.config.environment_files import described
from manager.config.findings import Finding
from manager.config.placeholders import STATE_DIR, fill_placeholders
from manager.config.references import argument_references, content, references, resolve_at
from manager.errors import CredentialError
from manager.system.secret_text import secret_problem

_REFER: Final = (
    "store it in an environment variable, a file or a keyring, and refer to it with env:, file: or keyring:"
)


def secret_findings(config: AccountConfig, config_dir: Path | None) -> Iterator[Finding]:
    """Yield findings about secrets; no finding reveals a secret.

    Without `config_dir`, references are not resolved.
    """
    yield from _password_findings(config, config_dir)
    config = _filled_where_possible(config)
    if config_dir is not None:
        for place, text in references(config):
            yield from _reference_findings(place, text, config_dir)
        for index, name in enumerate(config.environment_file):
            for text, warning in described(name, config_dir) if name else ():
                at: Place = ("environment_file", index)
                yield Finding(at if len(config.environment_file) > 1 else at[:1], text, warning)
    for literal in literals(content(config)):
        where = (
            "all users of its host can see arguments: refer to it in `environment`, or let the program read "
            "MANAGER_CREDENTIALS_FILE"
            if literal.place[0] == "command"
            else _REFER
        )
        text = f"looks like a secret in clear text ({literal.kind}): {where}"
        yield Finding(literal.place, text, warning=True)
    for index in argument_references(config.command or ()):
        text = (
            "looks like a reference, but the program receives it unchanged: references are resolved only in "
            "`environment` and `options`, because all users of a host can see arguments"
        )
        yield Finding(("command", index), text, warning=True)


def _filled_where_possible(config: AccountConfig) -> AccountConfig:
    """Return the account with placeholders filled in.

    Values whose placeholders cannot be filled in are left out.
    """
    found = fill_placeholders(config, None)
    if found.config is config:
        return config
    wrong = {problem.place for problem in found.problems}
    environment = {
        name: text
        for name, text in found.config.environment.items()
        if ("environment", name) not in wrong
        and not (STATE_DIR in text and credentials.scheme_of(text) is not None)
    }
    files = tuple(
        "" if ("environment_file", index) in wrong or STATE_DIR in name else name
        for index, name in enumerate(found.config.environment_file)
    )
    return found.config.model_copy(update={"environment": environment, "environment_file": files})


def _password_findings(config: AccountConfig, config_dir: Path | None) -> Iterator[Finding]:
    reference = config.password
    if reference is None or not reference.get_secret_value():
        return
    if credentials.scheme_of(reference.get_secret_value()) is None:
        problem = secret_problem(reference.get_secret_value())
        if problem is not None:
            yield Finding(("password",), problem, warning=True)
        yield Finding(("password",), f"is stored in clear text: {_REFER}", warning=True)
    elif config_dir is not None:
        try:
            credentials.resolve(reference, config_dir)
        except CredentialError as error:
            yield Finding(("password",), str(error))
        else:
            open_to = credentials.too_open(reference, config_dir)
            if open_to is not None:
                yield Finding(("password",), open_to, warning=True)


def _reference_findings(place: Place, text: str, config_dir: Path) -> Iterator[Finding]:
    try:
        resolve_at((), text, config_dir)
    except CredentialError as error:
        text = f"{str(error).removeprefix(': ')} (if this is not a reference, write `literal:TEXT`)"
        yield Finding(place, text)
    else:
        open_to = credentials.too_open(SecretStr(text), config_dir)
        if open_to is not None:
            yield Finding(place, open_to, warning=True)
