"""The environment that a child process is given: what programs need to run, and nothing that may be a secret.

An operator's `env:` passwords stand in the environment of the host agent. A worker, a program that it runs, or Flower
inheriting them would show them in `/proc/<pid>/environ` of every process.
"""

import os
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
