"""The environment that a child process is given: what programs need to run, and nothing that may be a secret.

An operator's `env:` passwords stand in the environment of the host agent. A worker, a program that it runs, or Flower
inheriting them would show them in `/proc/<pid>/environ` of every process.
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
        # Windows starts hardly anything without these.
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
    """Return this process's environment cut down to well-known harmless variables, with `extra` over it.

    Proxies are not among them: their URLs hold passwords. A program that needs one is given it by name.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)
    }
    return {**kept, **(extra or {})}


#: Of the manager's own interpreter, and what it sets for its own processes.
_OWN: Final = frozenset({"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"})


#: What belongs to the user that the manager runs as, beside what a login sets.
_OF_USER: Final = frozenset({"TMPDIR", "TEMP", "TMP", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"})


def program_environment(
    extra: Mapping[str, str] | None = None, user: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a program that is not ours, with `extra` over it.

    `user` are the variables of the user that it runs as, if that is another one than ours.

    The manager's virtual environment comes last on its PATH: `python3` is the system's, and a program that was installed
    beside the manager is still found. Python prints at once (PYTHONUNBUFFERED): a pipe would otherwise get nothing for a long time.
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
