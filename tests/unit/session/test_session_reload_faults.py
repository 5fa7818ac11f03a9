"""A session survives every changed configuration."""

import time
from typing import Any

from support.worker_bench import Bench

from manager.config import AccountConfig
from manager.gateways.base import Gateway
from manager.models import WorkerMetrics
from manager.session.exit_codes import WorkerExit


class Strategy:
    """A strategy from another package, which reads its parameters."""

    def run(self, gateway: Gateway) -> WorkerMetrics:
        return WorkerMetrics()

    def reload(self, config: AccountConfig) -> None:
        raise KeyError("slow_period")


def test_a_strategy_that_fails_to_reload_ends_no_session(bench: Bench) -> None:
    bench.cycle = Strategy()
    answers: list[Any] = []

    def act(bench: Bench) -> None:
        new = bench.spec.config.model_copy(update={"groups": ("x",)})
        answers.append(
            bench.ask({"op": "reload", "config": new.model_dump(mode="json", exclude={"password"})})
        )
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
    assert not answers[0]["ok"]


def test_an_interval_that_nothing_has_validated_ends_no_session(bench: Bench) -> None:
    """As for an account that was started with validate=False."""

    def act(bench: Bench) -> None:
        execution = {**bench.spec.config.execution.model_dump(), "interval_seconds": 0.0}
        new = {**bench.spec.config.model_dump(mode="json", exclude={"password"}), "execution": execution}
        bench.ask({"op": "reload", "config": new})
        time.sleep(0.3)
        bench.stop()

    assert bench.run(act) is WorkerExit.STOPPED
