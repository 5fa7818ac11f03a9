"""The text of a systemd unit and of its environment file. Pure: writes nothing and runs nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Literal

from manager.errors import SettingsError

Runs = Literal["host", "up"]

#: What a service may be called: part of file names and of command lines.
SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: Characters that a word of a command line may have without quotes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:=,@+%$-]+")

#: What systemd takes as the path of a program.
_PROGRAM: Final = re.compile(r"""/[^"'\\]*""")

_TITLES: Final = {"host": "Worker Manager host agent", "up": "Worker Manager: this machine's fleet"}
#: Seconds until the process itself is killed. `up` first stops its workers, each within its own time.
_STOP_SECONDS: Final = {"host": 120, "up": 600}

_BODY: Final = """\
# Written by `manager service install`; `manager service uninstall` removes it.
[Unit]
Description={title}
{after}# It is started again however often it ends: Redis may be away for long.
StartLimitIntervalSec=0

[Service]
{user}EnvironmentFile={environment_file}
# `manager down` reads this name: it leaves a service to systemd.
Environment=MANAGER_SERVICE={name}.service
ExecStart={command}
Restart=always
RestartSec=2
# The workers are this unit's children by origin, not by fate: they outlive the agent.
KillMode=process
# Lets the agent give each program a control group, which ends all of its processes at once.
Delegate=yes
# When memory runs out and the kernel kills one worker, the agent and the other workers go on.
OOMPolicy=continue
TimeoutStopSec={stop_seconds}
# For the agent: a file for each worker (its pidfd), two more while it starts, and its connections to Redis. Each worker
# has a limit of its own. 65,536 leaves room for 10,000 workers.
LimitNOFILE=65536
# Threads and processes of the agent AND of all its workers: 4 to 8 threads for each worker, the processes of its program
# if it has one, and several hundred threads of the agent. 16,384 is enough for 1,000 workers; systemd's default is less.
TasksMax=16384

[Install]
WantedBy={wanted_by}
"""

_NETWORK: Final = "After=network-online.target\nWants=network-online.target\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """What a unit is to run, and for whom."""

    name: str
    runs: Runs
    argv: Sequence[str]
    environment_file: PurePath
    #: The user of a system unit; empty for a user's own unit.
    user: str = ""


def unit_text(plan: UnitPlan) -> str:
    """Return the unit. Raises SettingsError for a name or a path that no unit can have."""
    if not SERVICE_NAME.fullmatch(plan.name):
        raise SettingsError(
            f"service name {plan.name!r}: use 1 to 63 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        )
    return _BODY.format(
        title=_TITLES[plan.runs],
        # A user's own units do not know the system's targets.
        after=_NETWORK if plan.user else "",
        user=f"User={_line(plan.user)}\n" if plan.user else "",
        # A path here is one value: blanks and quotes stand for themselves.
        environment_file=_line(str(plan.environment_file)).replace("%", "%%"),
        name=plan.name,
        command=" ".join([_word(plan.argv[0], program=True), *(_word(word) for word in plan.argv[1:])]),
        stop_seconds=_STOP_SECONDS[plan.runs],
        wanted_by="multi-user.target" if plan.user else "default.target",
    )


def environment_text(values: Mapping[str, str]) -> str:
    """Return the environment file, whose values systemd reads as a shell would."""
    lines = [
        "# The environment of the service. Mode 0600: it may hold a password of Redis.",
        "# Variables that account files name as env:NAME belong here too.",
    ]
    for name, value in values.items():
        escaped = re.sub(r'(["\\`$])', r"\\\1", _line(value))
        lines.append(f'{name}="{escaped}"')
    return "\n".join(lines) + "\n"


def _word(text: str, *, program: bool = False) -> str:
    """Return one word of a command line: `%` begins a specifier there, `$` a variable (not in the program's path)."""
    escaped = _line(text).replace("%", "%%")
    if program and not _PROGRAM.fullmatch(text):
        raise SettingsError(
            f"{text}: systemd starts no program whose path has a quote or a backslash: install the manager elsewhere"
        )
    if not program:
        escaped = escaped.replace("$", "$$")
    if _PLAIN.fullmatch(escaped):
        return escaped
    quoted = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _line(text: str) -> str:
    if not text.isprintable():
        raise SettingsError(
            f"{text!r} has a character that a line of a unit cannot hold: use another path or value"
        )
    return text
