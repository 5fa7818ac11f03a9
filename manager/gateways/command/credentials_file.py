"""The file from which a program reads the account's credentials."""

import json
import os
import sys
from pathlib import Path

from manager.gateways.command.program_user import ProgramUser
from manager.gateways.options import GatewayOptions
from manager.system.private_dirs import ensure_private_dir


class CredentialsFile:
    """A JSON file of mode 0600 in the worker's private directory.

    Keys: account_id, login, server, password.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._user: ProgramUser | None = None
        self.path: Path = options.private_dir / "credentials.json"

    def write(self, user: ProgramUser | None) -> None:
        """Write the file, owned by `user` (None: this process's user).

        Raises OSError.
        """
        self._user = user
        options = self._options
        ensure_private_dir(options.private_dir)
        self.path.unlink(missing_ok=True)
        content = {
            "account_id": options.account_id,
            "login": options.login,
            "server": options.server,
            "password": options.password.get_secret_value() if options.password else None,
        }
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        if user is not None and sys.platform != "win32":
            os.chown(self.path, user.uid, -1)

    def restore(self) -> None:
        """Write the file again if it was removed. Raises OSError."""
        if not self.path.exists():
            self.write(self._user)

    def remove(self) -> None:
        """Remove the file. Does nothing if it does not exist."""
        self.path.unlink(missing_ok=True)
