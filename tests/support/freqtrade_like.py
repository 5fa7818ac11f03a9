"""A bot like freqtrade 2026.9 in a dry run.

Usage: `freqtrade_like.py trade --userdir DIR`.

It reads its settings from FREQTRADE__ variables, uses sd_notify, serves its API's port and prints a
heartbeat. At SIGINT or SIGTERM it cancels its open orders, closes its API and exits with 0. `DIR/NAME.log`
records each run. While `DIR/NAME.silent` exists it hangs: it sends no WATCHDOG=1 and prints nothing.
"""

import os
import signal
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

assert sys.platform != "win32", "signals and Unix sockets of POSIX"

import fcntl  # noqa: E402

CYCLE_SECONDS = 0.1


class Bot:
    def __init__(self, directory: Path, name: str) -> None:
        self._log = directory / f"{name}.log"
        self._silent = directory / f"{name}.silent"
        self._lock = (directory / f"{name}.lock").open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.note("a second session")

    def note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{os.getpid()} {what}\n")

    def run(self) -> None:
        with socket.create_server(
            ("127.0.0.1", int(os.environ["FREQTRADE__API_SERVER__LISTEN_PORT"]))
        ) as api:
            threading.Thread(target=serve, args=(api,), daemon=True).start()
            notify("READY=1")
            self.note("ready")
            try:
                while True:
                    if not self._silent.exists():
                        notify("WATCHDOG=1\nSTATUS=State: RUNNING.")
                        say("freqtrade.worker", f"Bot heartbeat. PID={os.getpid()}, state='RUNNING'")
                    time.sleep(CYCLE_SECONDS)
            finally:
                notify("STOPPING=1")
                time.sleep(0.3)  # one request for each open order
                self.note("orders cancelled")
                say("freqtrade.freqtradebot", "Buy order cancelled (all unfilled open orders cancelled)")


def serve(api: socket.socket) -> None:
    while True:
        connection, _ = api.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"status":"pong"}')


def notify(message: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(os.environ["NOTIFY_SOCKET"])
        out.send(message.encode())


def say(logger: str, text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S,%f} - {logger} - INFO - {text}", flush=True)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    directory = Path(sys.argv[sys.argv.index("--userdir") + 1])
    say("freqtrade.configuration", f"Applying exchange key {os.environ['FREQTRADE__EXCHANGE__KEY']}")
    try:
        Bot(directory, os.environ["FREQTRADE__BOT_NAME"]).run()
    except KeyboardInterrupt:
        say("freqtrade", "SIGINT received, aborting ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
