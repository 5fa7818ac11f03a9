"""Five accounts with bots that behave like freqtrade.

They cover signals, sd_notify, watchdog, references, and that there is no second session.
"""

import json
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import support.freqtrade_like
from support.fleet import Fleet
from support.waiting import eventually

if sys.platform == "win32":
    pytest.skip("signals and Unix sockets of POSIX", allow_module_level=True)
assert sys.platform != "win32", "other platforms do not type-check the rest"

pytestmark = [pytest.mark.e2e, pytest.mark.long]

BOTS = [f"ft-{number}" for number in range(1, 6)]


class Bots:
    """The five accounts, and the output of their bots."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet, self.directory = fleet, directory
        self.ports = dict(zip(BOTS, free_ports(len(BOTS)), strict=True))
        # defaults.yaml says how a bot runs; each account file names only its account.
        (fleet.config_dir / "defaults.yaml").write_text(
            json.dumps(
                {
                    "gateway": "command",
                    "timeout": 30_000,
                    "command": [
                        *(sys.executable, support.freqtrade_like.__file__),
                        *("trade", "--userdir", str(directory)),
                    ],
                    "ready": {"notify": True},
                    "stop": {"signal": "INT", "deadline_seconds": 20},
                    "health": {"watchdog_seconds": 2},
                    "recovery": {"restart_unhealthy": True},
                    "environment": {
                        "FREQTRADE__BOT_NAME": "{account_id}",
                        "FREQTRADE__API_SERVER__LISTEN_PORT": "{login}",
                        "FREQTRADE__EXCHANGE__KEY": "file:secrets/{account_id}.key",
                        "FREQTRADE__EXCHANGE__SECRET": "file:secrets/{account_id}.secret",
                    },
                }
            )
        )
        for bot in BOTS:
            self.secret(bot, "key", f"key-of-{bot}-3c1f")
            self.secret(bot, "secret", f"secret-of-{bot}-9a77")
            # The login is used as the port of the bot's API, so that each bot has another port.
            account = {"login": self.ports[bot], "server": "Demo-1"}
            (fleet.config_dir / "accounts" / f"{bot}.yaml").write_text(json.dumps(account))

    def secret(self, bot: str, kind: str, value: str) -> None:
        path = self.fleet.config_dir / "secrets" / f"{bot}.{kind}"
        path.write_text(value + "\n")
        path.chmod(0o600)

    def secrets(self) -> list[str]:
        directory = self.fleet.config_dir / "secrets"
        return [path.read_text().strip() for path in directory.glob("ft-*")]

    def notes(self, bot: str) -> list[tuple[int, str]]:
        """Return the pid and output of each run of a bot."""
        path = self.directory / f"{bot}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.split(maxsplit=1)[1]) for line in lines]

    def pid(self, bot: str) -> int:
        return [pid for pid, text in self.notes(bot) if text == "ready"][-1]

    def cancelled(self, bot: str, pid: int) -> bool:
        return (pid, "orders cancelled") in self.notes(bot)

    def healthy(self, bot: str) -> bool:
        info = self.fleet.store.get_worker(bot)
        return info is not None and info.status == "running" and info.metadata.get("health") == "healthy"

    def info(self, bot: str) -> dict[str, Any]:
        info = self.fleet.store.get_worker(bot)
        assert info is not None
        return info.to_dict()

    def await_next(self, bot: str, before: int) -> None:
        eventually(lambda: self.pid(bot) != before, within=40, what=f"{bot} runs again: {self.notes(bot)}")
        eventually(lambda: self.healthy(bot), within=30, what=f"{bot} is healthy again")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_five_freqtrade_like_bots(bare_fleet: Fleet, tmp_path: Path) -> None:
    fleet = bare_fleet
    bots = Bots(fleet, tmp_path)
    fleet.start_agent()
    output = [fleet.run("start-all").stdout]
    listed = fleet.run_json("ps")
    assert [(one["account_id"], one["status"]) for one in listed] == [(bot, "running") for bot in BOTS]
    for bot in BOTS:
        eventually(lambda bot=bot: bots.healthy(bot), what=f"{bot} is healthy")  # type: ignore[misc]
        with urllib.request.urlopen(f"http://127.0.0.1:{bots.ports[bot]}/api/v1/ping") as answer:
            assert json.load(answer) == {"status": "pong"}
    assert bots.info(BOTS[0])["metadata"]["program_status"] == "State: RUNNING."

    # A second start creates no second session.
    first = {bot: bots.pid(bot) for bot in BOTS}
    assert fleet.run("start", *BOTS).returncode == 0
    assert {bot: bots.pid(bot) for bot in BOTS} == first

    # Killed, frozen, or hung: each bot is restarted, and the latter two cancel their orders first.
    killed, frozen, hung, *_ = BOTS
    os.kill(first[killed], signal.SIGKILL)
    os.kill(first[frozen], signal.SIGSTOP)
    (tmp_path / f"{hung}.silent").touch()
    eventually(lambda: bots.cancelled(hung, first[hung]), within=30, what="the hung bot cancelled its orders")
    (tmp_path / f"{hung}.silent").unlink()
    for bot in (killed, frozen, hung):
        bots.await_next(bot, first[bot])
    assert not bots.cancelled(killed, first[killed])
    assert bots.cancelled(frozen, first[frozen])
    causes = {bot: bots.info(bot)["metadata"]["last_cause"] for bot in BOTS}
    assert "ended by signal 9" in causes[killed]
    assert "stopped by a signal (SIGSTOP or a debugger)" in causes[frozen]
    assert "no WATCHDOG=1 for" in causes[hung]
    assert causes[BOTS[3]] is None
    assert bots.pid(BOTS[3]) == first[BOTS[3]]

    # A stop by SIGINT ends each bot cleanly and leaves no process.
    last = {bot: bots.pid(bot) for bot in BOTS}
    stopped = fleet.run("stop-all")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    output += [stopped.stdout, fleet.run("audit", "--json").stdout, fleet.run("events", "--json").stdout]
    for bot in BOTS:
        assert bots.cancelled(bot, last[bot])
        info = bots.info(bot)
        assert (info["status"], info["error"], info["metadata"]["exit_code"]) == ("stopped", None, 0)
        assert "forced" not in info["metadata"]
        with pytest.raises(ProcessLookupError):
            os.kill(last[bot], 0)
        assert "a second session" not in [text for _, text in bots.notes(bot)]
        output += [json.dumps(info), fleet.paths.worker_log(bot).read_text()]
        assert "Applying exchange key ***" in output[-1]
    assert [secret for secret in bots.secrets() if any(secret in text for text in output)] == []
