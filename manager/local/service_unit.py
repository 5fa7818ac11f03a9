"""The text of a systemd unit and of its environment file. No I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Literal

from manager.errors import SettingsError

Runs = Literal["host", "up"]

#: Valid service names, which are part of file names and command lines.
SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: Words of a command line that need no quotes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:=,@+%$-]+")

#: Program paths that systemd accepts.
_PROGRAM: Final = re.compile(r"""/[^"'\\]*""")

_TITLES: Final = {"host": "Worker Manager host agent", "up": "Worker Manager: this machine's fleet"}
#: Seconds before systemd kills the process. `up` needs more, because it first stops its workers.
_STOP_SECONDS: Final = {"host": 120, "up": 600}

_BODY: Final = """\
# Written by `manager service install`; `manager service uninstall` removes it.
[Unit]
Description={title}
{after}# Restart without a limit, because Redis may be unreachable for a long time.
StartLimitIntervalSec=0

[Service]
{user}EnvironmentFile={environment_file}
# With this name `manager down` knows that only systemd may stop this service.
Environment=MANAGER_SERVICE={name}.service
ExecStart={command}
Restart=always
RestartSec=2
# Stop only the main process: workers continue without the host agent.
KillMode=process
# The agent creates a control group for each program, to end all of its processes together, and one for each
# worker with limits. For the latter the agent must be in its own group (systemd 254 and later).
Delegate=yes
DelegateSubgroup=agent
# If the kernel kills a worker for lack of memory, the agent and the other workers continue.
OOMPolicy=continue
TimeoutStopSec={stop_seconds}
# For the agent: one file for each worker (its pidfd), two more while the worker starts, and connections to
# Redis. Each worker has its own limit. 65,536 is enough for 10,000 workers.
LimitNOFILE=65536
# For the agent AND all its workers: 4 to 8 threads for each worker, the processes of its program, and several
# hundred threads of the agent. 16,384 is enough for 1,000 workers; systemd's default is lower.
TasksMax=16384

[Install]
WantedBy={wanted_by}
"""

_NETWORK: Final = "After=network-online.target\nWants=network-online.target\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """What a unit runs, and as which user."""

    name: str
    runs: Runs
    argv: Sequence[str]
    environment_file: PurePath
    #: The user of a system unit; empty for a user unit.
    user: str = ""


def unit_text(plan: UnitPlan) -> str:
    """Return the unit's text.

    Raises SettingsError for a name or path that a unit cannot contain.
    """
    if not SERVICE_NAME.fullmatch(plan.name):
        raise SettingsError(
            f"service name {plan.name!r} is not valid: use 1 to 63 letters, digits, '.', '_' or '-', and "
            "begin with a letter or digit"
        )
    return _BODY.format(
        title=_TITLES[plan.runs],
        # User units cannot depend on targets of the system.
        after=_NETWORK if plan.user else "",
        user=f"User={_line(plan.user)}\n" if plan.user else "",
        # systemd takes the whole value as one path, so spaces and quotes need no escape here.
        environment_file=_line(str(plan.environment_file)).replace("%", "%%"),
        name=plan.name,
        command=" ".join([_word(plan.argv[0], program=True), *(_word(word) for word in plan.argv[1:])]),
        stop_seconds=_STOP_SECONDS[plan.runs],
        wanted_by="multi-user.target" if plan.user else "default.target",
    )


def environment_text(values: Mapping[str, str]) -> str:
    """Return the environment file, with values quoted as for a shell.

    Raises SettingsError for a value that a line cannot contain.
    """
    lines = [
        "# The environment of the service. Keep mode 0600: it may contain a password of Redis.",
        "# Add the variables that account files name as env:NAME.",
    ]
    for name, value in values.items():
        escaped = re.sub(r'(["\\`$])', r"\\\1", _line(value))
        lines.append(f'{name}="{escaped}"')
    return "\n".join(lines) + "\n"


def _word(text: str, *, program: bool = False) -> str:
    """Return one escaped word of a command line.

    systemd expands `%` everywhere, and `$` everywhere except in the program's path.
    """
    escaped = _line(text).replace("%", "%%")
    if program and not _PROGRAM.fullmatch(text):
        raise SettingsError(
            f"{text}: systemd cannot start a program whose path contains a quote or backslash: install the "
            "manager in another directory"
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
            f"{text!r} contains a character that a unit file cannot contain: use another path or value"
        )
    return text
