"""`manager up` on a pseudo-terminal, which the test can close."""

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil

from manager.system.state_dir import StatePaths
from support.waiting import eventually


class Machine:
    """Directories with paper accounts, and the environment for `manager`."""

    def __init__(self, directory: Path, accounts: int = 2) -> None:
        self.paths = StatePaths(directory / "s")
        self.config_dir = directory / "c"
        self._terminals: list[Terminal] = []
        (self.config_dir / "accounts").mkdir(parents=True)
        secret = self.config_dir / "password"
        secret.write_text("correct-horse\n")
        secret.chmod(0o600)
        for number in range(1, accounts + 1):
            (self.config_dir / "accounts" / f"account-{number:03}.yaml").write_text(
                f"{{gateway: paper, login: {6000 + number}, server: Paper-1, password: 'file:password', "
                "currencies: [{symbol: EURUSD}], execution: {interval_seconds: 1, stop_timeout_seconds: 3}}\n"
            )
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(directory),
            "TERM": "xterm",
            "MANAGER_STATE_DIR": str(self.paths.root),
            "MANAGER_CONFIG_DIR": str(self.config_dir),
            "MANAGER_HOST": "up-host",
            "MANAGER_API_PORT": "0",
        }

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "manager.cli", *arguments]

    def run(self, *arguments: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Return every process that names this state directory.

        It searches their arguments and environments.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                known = " ".join([*process.cmdline(), *process.environ().values()])
                if str(self.paths.root) in known and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def terminal(self, *arguments: str) -> "Terminal":
        """Run `manager` on a pseudo-terminal."""
        self._terminals.append(Terminal(self, *arguments))
        return self._terminals[-1]

    def close(self) -> None:
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for terminal in self._terminals:
            terminal.process.wait(timeout=10)
            terminal.close()
        psutil.wait_procs(left, timeout=10)


class Terminal:
    """A process with a controlling terminal."""

    def __init__(self, machine: Machine, *arguments: str) -> None:
        self.process: subprocess.Popen[bytes]
        self._master: int
        self.text = ""
        if sys.platform == "win32":
            raise RuntimeError("Windows has no pseudo-terminals")
        master, slave = os.openpty()
        # Like a shell, create a session with this terminal.
        takes = "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
        argv = [sys.executable, "-c", takes, str(slave), *machine.argv(*arguments)]
        environment = {**machine.environment, "COLUMNS": "200", "LINES": "30"}
        self.process = subprocess.Popen(argv, env=environment, pass_fds=(slave,))
        os.close(slave)
        self._master = master

    def read(self, seconds: float = 0.05) -> str:
        """Read available output; return everything read so far."""
        deadline = time.monotonic() + seconds
        while select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                self.text += os.read(self._master, 65_536).decode(errors="replace")
            except OSError:  # every process has closed it
                break
        return self.text

    def wait_for(self, text: str, within: float = 40) -> None:
        eventually(lambda: text in self.read(), within=within, what=f"{text!r} is shown")

    def close(self) -> None:
        """Close the terminal, like its window. Idempotent."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
