"""One worker in this process, with a fake gateway, for tests."""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from manager.config.models import ExecutionConfig
from manager.gateways.fake import FakeGateway
from manager.session.control import ask
from manager.session.exit_codes import WorkerExit
from manager.session.heartbeat_file import HeartbeatWriter, read_heartbeat
from manager.session.launch_spec import LaunchSpec
from manager.session.worker import Worker
from manager.system.masking import Masker
from manager.trading.cycle import Cycle, ObserveCycle
from support.configs import config
from support.waiting import eventually

#: What a worker takes for a polite stop; Windows has no SIGHUP.
ENDING = [signal.SIGTERM, signal.SIGINT, *(s for s in signal.Signals if s.name == "SIGHUP")]


class Bench:
    """One worker, its messages, and a thread that acts on it once it runs."""

    def __init__(self, directory: Path, **execution: Any) -> None:
        self.gateway = FakeGateway()
        self.beat_file = directory / "w.beat"
        self.messages: list[Mapping[str, Any]] = []
        self.sent: list[Mapping[str, Any]] = []
        self.spec = LaunchSpec(
            worker_id="w-1",
            config=config(
                account_id="account-1",
                execution=ExecutionConfig(
                    **{"interval_seconds": 0.05, "stop_timeout_seconds": 5, **execution}
                ),
            ),
            password=SecretStr("hunter2"),
            redis_url=None,
            host="h",
            home="",
            claims=(),
            epoch=0,
            lease_seconds=0.0,
            leased_at=0.0,
            venue_address=None,
            log_file=directory / "log",
            beat_file=self.beat_file,
            private_dir=directory / "p",
            directory=None,
            control_address=str(directory / "w.sock"),
            control_token=SecretStr("token"),
            heartbeat_interval_seconds=0.05,
            log_level="INFO",
            log_json=False,
        )
        self.worker: Worker | None = None
        self.cycle: Cycle = ObserveCycle(self.spec.config)

    def send(self, account_id: str, beat: Mapping[str, Any]) -> None:
        assert account_id == "account-1"
        self.sent.append(beat)

    def run(self, act: Callable[["Bench"], None] | None = None) -> WorkerExit:
        beat = HeartbeatWriter(self.beat_file, Masker(["hunter2"]))
        self.worker = Worker(self.spec, self.gateway, self.cycle, beat, self, self.messages.append)
        failures: list[BaseException] = []

        def actor() -> None:
            try:
                eventually(lambda: self.messages, what="the worker said how its start ended")
                if act is not None:
                    act(self)
            except BaseException as error:
                failures.append(error)
                if self.worker is not None:
                    self.worker.request_stop("the test failed", 1)

        thread = threading.Thread(target=actor)
        thread.start()
        try:
            return self.worker.run()
        finally:
            thread.join()
            beat.close()
            if failures:
                raise failures[0]

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return ask(self.spec.control_address, "token", request)

    def stop(self, seconds: float = 5) -> None:
        assert self.ask({"op": "stop", "seconds": seconds})["ok"]

    def status(self) -> Mapping[str, Any]:
        heartbeat = read_heartbeat(self.beat_file)
        assert heartbeat is not None
        return heartbeat.status

    def exit_reason(self) -> str | None:
        heartbeat = read_heartbeat(self.beat_file)
        assert heartbeat is not None
        return heartbeat.exit_reason
