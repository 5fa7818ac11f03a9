"""Environments for child processes, without variables that may be secrets.

The host agent's environment contains the passwords of `env:` references. A worker, its program or Flower must
not inherit them, because `/proc/<pid>/environ` would show them.
"""

import os
import sys
from collections.abc import Mapping
from typing import Final

_NAMES: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM"),
        *("TMPDIR", "TEMP", "TMP", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
        # Most programs on Windows fail without these.
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA"),
        *(
            "PROGRAMDATA",
            "PROGRAMFILES",
            "PROGRAMFILES(X86)",
            "COMMONPROGRAMFILES",
            "USERPROFILE",
            "USERNAME",
        ),
        *("USERDOMAIN", "HOMEDRIVE", "HOMEPATH", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "OS"),
    }
)
_PREFIXES: Final = ("LC_", "XDG_")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's harmless variables, updated by `extra`.

    Proxy variables are excluded because their URLs may contain passwords. A program that needs one gets it by
    name.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)
    }
    return {**kept, **(extra or {})}


#: Variables of the manager's interpreter and of its processes.
_OWN: Final = frozenset({"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"})


#: Variables that belong to the manager's user, beside those of a login.
_OF_USER: Final = frozenset({"TMPDIR", "TEMP", "TMP", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"})


def program_environment(
    extra: Mapping[str, str] | None = None, user: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of an account's program, updated by `extra`.

    `user` has the variables of the user that it runs as, if that is not the manager's user. The manager's
    virtual environment is last on PATH, so that `python3` is the system's and programs installed beside the
    manager are found. PYTHONUNBUFFERED is set because Python would otherwise hold back output to a pipe for a
    long time.
    """
    kept = {name: value for name, value in clean_environment().items() if name.upper() not in _OWN}
    if "PATH" in kept and sys.prefix != sys.base_prefix:
        ours = os.path.realpath(os.path.join(sys.prefix, "Scripts" if sys.platform == "win32" else "bin"))  # noqa: PTH118
        parts = kept["PATH"].split(os.pathsep)
        own = [part for part in parts if os.path.realpath(part) == ours]
        kept["PATH"] = os.pathsep.join([part for part in parts if part not in own] + own[:1])
    if user is not None:
        kept = {name: value for name, value in kept.items() if name not in _OF_USER and name[:4] != "XDG_"}
        kept |= user
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}
