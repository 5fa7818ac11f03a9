"""`manager service`: installs a system service (systemd, Windows)."""

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import platformdirs

from manager.errors import ComponentError, SettingsError
from manager.fleet import fleet_url, safe_url
from manager.local.service_unit import Runs, UnitPlan, environment_text, unit_text
from manager.local.windows_task import loop_script, task_xml
from manager.settings import Settings
from manager.system import atomic_file
from manager.system.child_process import manager_argv

Scope = Literal["system", "user"]

#: MANAGER_ variables of a running process that a service must not inherit.
_NOT_SETTINGS: Final = frozenset({"MANAGER_CORE_LIMIT", "MANAGER_SERVICE"})
_PATHS: Final = ("MANAGER_REDIS_URL_FILE", "MANAGER_FLOWER_AUTH_FILE")


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """A file that belongs to a service."""

    path: Path
    text: str
    #: Whether users may edit the file; then an existing one is neither overwritten nor removed.
    keep: bool = False
    encoding: str = "utf-8"
    #: The text without secrets, for the screen.
    shown: str = ""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What `install`, `uninstall` and `status` do for one service."""

    name: str
    files: Sequence[ServiceFile]
    install: Sequence[Sequence[str]]
    uninstall: Sequence[Sequence[str]]
    status: Sequence[str]
    hints: Sequence[str] = field(default_factory=list)
    #: The user that runs the service, if it is not the caller.
    user: str = ""


def service_plan(
    settings: Settings,
    *,
    runs: Runs = "host",
    name: str = "worker-manager",
    scope: Scope | None = None,
    user: str | None = None,
) -> ServicePlan:
    """Return the plan for this system without writing anything.

    Raises SettingsError if the system or the combination of options is not supported.
    """
    if sys.platform == "win32":
        return windows_plan(settings, manager_argv(runs), name, user or this_user())
    if sys.platform != "linux":
        raise SettingsError(
            "`manager service` supports Linux with systemd, and Windows: on this system run `manager host` "
            "under your own supervisor"
        )
    scope = scope or ("system" if os.geteuid() == 0 else "user")
    if scope == "user" and user:
        raise SettingsError("--run-as needs --system: a user unit always runs as its own user")
    return systemd_plan(settings, manager_argv(runs), runs, name, scope, user)


def require_paths(user: str) -> None:
    """Raise SettingsError if a service of another user would get our directories.

    The default directories belong to the user of this process.
    """
    if user and user != this_user():
        missing = [n for n in ("MANAGER_CONFIG_DIR", "MANAGER_STATE_DIR") if not os.environ.get(n)]
        if missing:
            raise SettingsError(
                f"the service would run as {user}, but the default directories belong to {this_user()}: set "
                f"{' and '.join(missing)}, or choose another user with --run-as"
            )


def this_user() -> str:
    """Return the name of the effective user of this process.

    The environment may name another user, for example under `sudo -E`.
    """
    if sys.platform == "win32":
        return getpass.getuser()
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def systemd_plan(
    settings: Settings, argv: Sequence[str], runs: Runs, name: str, scope: Scope, user: str | None
) -> ServicePlan:
    """Return the plan for a systemd unit of the system or of this user."""
    system = scope == "system"
    if system:
        user = user or _owner(settings)
        units = Path("/etc/systemd/system")
        environment_file = Path(f"/etc/{name}.env")
    else:
        units = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
        environment_file = platformdirs.user_config_path("worker-manager", appauthor=False) / f"{name}.env"
    unit = f"{name}.service"
    control = ["systemctl", *([] if system else ["--user"])]
    values = service_environment(settings)
    text = unit_text(
        UnitPlan(
            name=name,
            runs=runs,
            argv=argv,
            environment_file=environment_file,
            user=(user or "") if system else "",
        )
    )
    hints = ["workers continue when the service stops or is removed"] if runs == "host" else []
    if not system:
        me = this_user()
        hints.append(
            f"run `loginctl enable-linger {me}` to start it at boot; otherwise systemd stops it AND ITS "
            f"WORKERS when {me} logs out"
        )
    return ServicePlan(
        name,
        [
            ServiceFile(
                environment_file,
                environment_text(values),
                keep=True,
                shown=environment_text(_masked(values, settings)),
            ),
            ServiceFile(units / unit, text),
        ],
        [[*control, "daemon-reload"], [*control, "enable", "--now", unit]],
        [[*control, "disable", "--now", unit], [*control, "daemon-reload"]],
        [*control, "status", "--no-pager", unit],
        hints,
        (user or "") if system else "",
    )


def windows_plan(settings: Settings, argv: Sequence[str], name: str, user: str) -> ServicePlan:
    """Return the plan for a Windows scheduled task.

    A Windows service would need an additional program; a scheduled task does not.
    """
    values = service_environment(settings)
    directory = settings.state_dir
    script, task = directory / f"{name}.cmd", directory / f"{name}.xml"
    log_file = str(directory / "logs" / f"{name}.log")
    return ServicePlan(
        name,
        [
            ServiceFile(
                script,
                loop_script(argv, values, log_file),
                shown=loop_script(argv, _masked(values, settings), log_file),
            ),
            ServiceFile(task, task_xml(user, str(script)), encoding="utf-16"),
        ],
        [
            # `/RP *` asks for the user's password.
            ["schtasks", "/Create", "/TN", name, "/XML", str(task), "/RU", user, "/RP", "*", "/F"],
            ["schtasks", "/Run", "/TN", name],
        ],
        [["schtasks", "/Delete", "/TN", name, "/F"]],
        ["schtasks", "/Query", "/TN", name, "/V", "/FO", "LIST"],
        [
            "removing the task does not stop the running script and host agent: stop them by their pids, or "
            "reboot",
            f"make sure that only {user} can read {directory}: the script there contains the environment",
        ],
    )


def service_environment(settings: Settings) -> dict[str, str]:
    """Return the settings of this process as environment variables.

    The service inherits nothing else of this process.
    """
    given = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("MANAGER_") and name not in _NOT_SETTINGS and value
    }
    for name in _PATHS:
        if name in given:
            given[name] = str(Path(given[name]).expanduser().absolute())
    return {
        **given,
        "MANAGER_CONFIG_DIR": str(settings.config_dir),
        "MANAGER_STATE_DIR": str(settings.state_dir),
        "MANAGER_HOST": settings.host,
    }


def install(plan: ServicePlan) -> list[str]:
    """Write the files, run the commands, and return one line per step.

    Raises ComponentError if a file cannot be written or a command fails.
    """
    done: list[str] = []
    require_program(plan.install[0][0])
    for file in plan.files:
        if file.keep and file.path.exists():
            done.append(f"kept {file.path}, which already exists")
            continue
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            mode = 0o600 if file.keep or file.shown else 0o644
            atomic_file.write(file.path, file.text.encode(file.encoding), mode=mode)
        except OSError as error:
            raise ComponentError(
                f"{file.path}: {error.strerror or error}: run this as root (or administrator), or use --user"
            ) from None
        done.append(f"wrote {file.path}")
    for command in plan.install:
        run_command(command)
        done.append(f"ran {shown_command(command)}")
    return done


def uninstall(plan: ServicePlan) -> list[str]:
    """Run the commands, remove our files, and return one line per step.

    Files that users may edit stay. Raises ComponentError.
    """
    ours = [file for file in plan.files if not file.keep]
    if not any(file.path.exists() for file in ours):
        return []
    require_program(plan.uninstall[0][0])
    done: list[str] = []
    first, *rest = plan.uninstall
    run_command(first)
    done.append(f"ran {shown_command(first)}")
    for file in ours:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise ComponentError(f"{file.path}: {error.strerror or error}: remove it as root") from None
        done.append(f"removed {file.path}")
    for command in rest:
        run_command(command)
        done.append(f"ran {shown_command(command)}")
    return done


def run_command(command: Sequence[str]) -> None:
    """Run one command on this process's terminal.

    Raises ComponentError if it fails.
    """
    code = subprocess.run(list(command), check=False).returncode
    if code != 0:
        raise ComponentError(f"{shown_command(command)} ended with code {code}: see its output above")


def shown_command(command: Sequence[str]) -> str:
    """Return the command with the shell's quoting."""
    import shlex

    return subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)


def require_program(program: str) -> None:
    """Raise ComponentError if the program is not on PATH."""
    if shutil.which(program) is None:
        raise ComponentError(
            f"{program} is not installed on this machine: --dry-run prints the files, for use with another "
            "supervisor"
        )


def _owner(settings: Settings) -> str:
    """Return the default user of a system unit: the state directory's owner."""
    if sys.platform == "win32":
        raise SettingsError("systemd units exist only on Linux")
    import pwd

    if settings.state_dir.exists():
        return pwd.getpwuid(settings.state_dir.stat().st_uid).pw_name
    return os.environ.get("SUDO_USER") or this_user()


def _masked(values: Mapping[str, str], settings: Settings) -> dict[str, str]:
    shown = dict(values)
    if "MANAGER_REDIS_URL" in shown:
        shown["MANAGER_REDIS_URL"] = safe_url(fleet_url(settings))
    return shown
