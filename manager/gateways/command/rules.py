"""Validation rules of the command gateway."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.config import AccountConfig
from manager.config.findings import Finding
from manager.config.models import ProbeConfig
from manager.config.placeholders import STATE_DIR, Filled, fill_placeholders, misspelt
from manager.config.problems import Place
from manager.gateways.command.executables import find_program, program_trouble
from manager.gateways.command.program_user import ProgramUser, ProgramUserError, program_user
from manager.system.environment import program_environment

_SIGNS: Final = ("line", "tcp", "http", "after_seconds", "notify")


def program_findings(config: AccountConfig, config_dir: Path | None) -> Iterator[Finding]:
    """Apply all rules to an account.

    Without `config_dir`, nothing on this machine is checked.
    """
    # The rules check what the program would receive, so placeholders are filled in first.
    found = fill_placeholders(config, None)
    yield from placeholders(config, found)
    yield from program(found, config_dir)
    config = found.config
    yield from variables(config)
    yield from readiness(config)
    yield from program_health(config)
    yield from stopping(config)


def placeholders(config: AccountConfig, found: Filled) -> Iterator[Finding]:
    """Check that each placeholder has a value and none is misspelt.

    `found` is the filled-in account.
    """
    for problem in found.problems:
        yield Finding(problem.place, problem.text)
    for place, text in misspelt(config):
        yield Finding(place, f"{text} The program receives it as written", warning=True)


def program(found: Filled, config_dir: Path | None) -> Iterator[Finding]:
    """Check program, directory and user.

    Without `config_dir`, nothing on this machine is checked.
    """
    config = found.config
    for index, argument in enumerate(config.command or ()):
        if "\0" in argument:
            yield Finding(("command", index), "contains a NUL character, which is not possible in arguments")
    for index, name in enumerate(config.environment_file):
        if not name or "\0" in name:
            yield Finding(("environment_file", index), "is not a file name")
    if sys.platform == "win32" and config.umask is not None:
        yield Finding(("umask",), "is not supported on Windows: remove it")
    if not config.command:
        yield Finding(
            ("command",), "is missing; gateway command needs the program and its arguments as a list"
        )
        return
    if not config.command[0]:
        yield Finding(("command", 0), "is empty; the first entry is the program")
        return
    if config_dir is None:
        return
    who: ProgramUser | None = None
    try:
        who = program_user(config.user, config.group)
    except ProgramUserError as error:
        yield Finding((error.key,), str(error))
    if not any(problem.place in (("directory",), ("command", 0)) for problem in found.problems):
        yield from _program_here(config, config.command[0], config_dir, who)


def _program_here(
    config: AccountConfig, name: str, config_dir: Path, who: ProgramUser | None
) -> Iterator[Finding]:
    directory: Path | None = None
    if STATE_DIR not in (config.directory or ""):  # created before the program starts
        # Path.expanduser() raises for `~name` of an unknown user; os.path leaves the name unchanged.
        directory = config_dir / os.path.expanduser(config.directory or ".")  # noqa: PTH111
        if "\0" in str(directory) or not directory.is_dir():
            yield Finding(("directory",), f"{directory} is not a directory on this host")
            return
        barred = None if who is None else who.cannot_reach(directory)
        if who is not None and barred is not None:
            yield Finding(("directory",), f"user {who.name} may not enter {barred}: {_let_in(config)}")
            return
    if STATE_DIR in name:
        return
    given = config.environment.get("PATH")
    search_path = program_environment({} if given is None else {"PATH": given}).get("PATH")
    found = find_program(name, directory, search_path)
    if found is None:
        yield Finding(
            ("command", 0), f"{name!r} is not an executable on this host: give its full path, or install it"
        )
        return
    trouble = program_trouble(found, search_path)
    barred = None if who is None else who.cannot_reach(Path(found).resolve())
    if trouble is None and who is not None and barred is not None:
        trouble = (
            f"user {who.name} may not enter {barred} on the way to {found}: put the program into another "
            "directory, or chmod it"
        )
    if trouble is not None:
        yield Finding(("command", 0), trouble)


def _let_in(config: AccountConfig) -> str:
    return (
        "set `directory` to one that this user may enter (by default it is the configuration directory)"
        if config.directory is None
        else "chmod it, or set another `directory`"
    )


def variables(config: AccountConfig) -> Iterator[Finding]:
    """Check the names and values of `environment`."""
    for name, value in config.environment.items():
        place: Place = ("environment", name)
        if not name or "=" in name:
            yield Finding(
                place, f"{name!r} is not a valid variable name: it must not be empty or contain '='"
            )
        elif "\0" in name or "\0" in value:
            yield Finding(place, "contains a NUL character, which is not possible in variables")
        elif name.upper().startswith("MANAGER_"):
            yield Finding(place, "names beginning with MANAGER_ are reserved")


def readiness(config: AccountConfig) -> Iterator[Finding]:
    """Check `ready`."""
    ready = config.ready
    if ready is None:
        yield Finding(
            ("ready",),
            "is missing; say how the program shows that it is ready: {line: TEXT}, {tcp: PORT}, {http: URL}, "
            "{notify: true} or {after_seconds: N}",
        )
        return
    given = [name for name in _SIGNS if getattr(ready, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        verb = "are" if len(given) > 1 else "is"
        yield Finding(("ready",), f"{found} {verb} given; exactly one of {', '.join(_SIGNS)} is allowed")
    if ready.notify is False:
        yield Finding(("ready", "notify"), "is false; write true, or another key")
    yield from _target(ready.tcp, ready.http, ("ready",))
    if ready.line == "":
        yield Finding(("ready", "line"), "is empty; give a text that appears in the program's output")
    if ready.after_seconds is not None and not 0 <= ready.after_seconds <= config.timeout / 1000:
        text = f"{ready.after_seconds:g}; 0 to the account's timeout ({config.timeout / 1000:g} s) is allowed"
        yield Finding(("ready", "after_seconds"), text)


def program_health(config: AccountConfig) -> Iterator[Finding]:
    """Check the keys of `health` that concern a program."""
    health = config.health
    if health.watchdog_seconds is not None:
        place: Place = ("health", "watchdog_seconds")
        if health.watchdog_seconds <= 0:
            yield Finding(place, f"{health.watchdog_seconds:g}; more than 0 is allowed")
        if config.ready is None or not config.ready.notify:
            yield Finding(
                place, "needs `ready: {notify: true}`, because the program reports through that socket"
            )
    if (every := health.line_every) is not None:
        if every.seconds <= 0:
            yield Finding(("health", "line_every", "seconds"), f"{every.seconds:g}; more than 0 is allowed")
        if every.line == "":
            yield Finding(
                ("health", "line_every", "line"),
                "is empty; write a text, or remove the key to accept any output",
            )
    if health.probe is not None:
        yield from _probe(health.probe)


def stopping(config: AccountConfig) -> Iterator[Finding]:
    """Check `stop`."""
    name = config.stop.signal.upper().removeprefix("SIG")
    if sys.platform != "win32" and not hasattr(signal, f"SIG{name}"):
        yield Finding(
            ("stop", "signal"), f"{config.stop.signal!r} is not a signal; TERM, INT, QUIT or HUP are usual"
        )
    if not 0 < config.stop.deadline_seconds <= 3_600:
        text = f"{config.stop.deadline_seconds:g}; more than 0 and up to 3600 is allowed"
        yield Finding(("stop", "deadline_seconds"), text)


def _probe(probe: ProbeConfig) -> Iterator[Finding]:
    place: Place = ("health", "probe")
    if (probe.tcp is None) == (probe.http is None):
        yield Finding(place, "exactly one of tcp and http is allowed")
    yield from _target(probe.tcp, probe.http, place)
    for name in ("interval_seconds", "timeout_seconds"):
        if getattr(probe, name) <= 0:
            yield Finding((*place, name), f"{getattr(probe, name):g}; more than 0 is allowed")
    if probe.failures < 1:
        yield Finding((*place, "failures"), f"{probe.failures} is below 1; 1 or more is allowed")


def _target(port: int | str | None, url: str | None, place: Place) -> Iterator[Finding]:
    if isinstance(port, int) and not 1 <= port <= 65_535:
        yield Finding((*place, "tcp"), f"{port} is not a port; 1 to 65535 is allowed")
    if url is not None and not url.startswith(("http://", "https://")):
        yield Finding((*place, "http"), f"{url!r} is not a URL; http:// or https:// is allowed")
