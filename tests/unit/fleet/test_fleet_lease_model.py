"""Random sequences of lease operations on a real Redis, checked against a model.

Redis's clock cannot be set, so time passes by moving the stored times back. A worker may hold a session until
a heartbeat is refused. With a time to live, it must also have renewed its lease within four fifths of that
time.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.servers import RedisServer

from manager.fleet.leases import LeaseBeats, LeaseHeld, LeaseStore, Quarantine, lease_key

CLAIM = "paper:S:1"
TTL = 10.0
QUARANTINE = 10.0


@dataclass
class Runner:
    """A running worker, and its own view of its lease."""

    name: str
    host: str
    epoch: int
    ttl: float
    age: float = 0.0
    #: Its lease was revoked. The guarantee is suspended until its next heartbeat is refused.
    forced: bool = False

    @property
    def may_act(self) -> bool:
        return self.ttl == 0 or self.age < self.ttl * 0.8


class Leases(RuleBasedStateMachine):
    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = self.server.client()
        self.server.forget()
        self.store = LeaseStore(self.server.url)
        self.store.trust()
        self.runners: list[Runner] = []
        self.epochs: list[int] = []
        self.count = 0

    def teardown(self) -> None:
        self.client.close()

    @rule(host=st.sampled_from(["h1", "h2"]), ttl=st.sampled_from([0.0, TTL]))
    def start(self, host: str, ttl: float) -> None:
        """A host starts the account; only a worker that may act may cause a refusal."""
        self.count += 1
        name = f"w-{self.count}"
        try:
            epoch = self.store.acquire(
                [CLAIM],
                host=host,
                worker_id=name,
                account_id="a",
                ttl_seconds=ttl,
                quarantine_seconds=QUARANTINE,
            )
        except (LeaseHeld, Quarantine):
            return
        assert not self.epochs or epoch > self.epochs[-1], "fencing tokens grow"
        self.epochs.append(epoch)
        self.runners.append(Runner(name, host, epoch, ttl))

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        self._renew(data.draw(st.sampled_from(self.runners)))

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A worker has provably ended, and its host releases the lease."""
        runner = data.draw(st.sampled_from(self.runners))
        self.runners.remove(runner)
        self.store.release([CLAIM], runner.epoch)

    @precondition(lambda self: self.runners)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """A worker has ended, and its host starts the next one without releasing the lease."""
        runner = data.draw(st.sampled_from(self.runners))
        self.runners.remove(runner)
        self.count += 1
        name = f"w-{self.count}"
        try:
            epoch = self.store.acquire(
                [CLAIM],
                host=runner.host,
                worker_id=name,
                account_id="a",
                ttl_seconds=runner.ttl,
                quarantine_seconds=QUARANTINE,
                held_epoch=runner.epoch,
            )
        except (LeaseHeld, Quarantine):
            return
        assert epoch > self.epochs[-1]
        self.epochs.append(epoch)
        self.runners.append(Runner(name, runner.host, epoch, runner.ttl))

    @rule(seconds=st.sampled_from([1.0, 4.0, 7.0, 12.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; a worker whose time is over ends its session before another may acquire the lease."""
        for runner in self.runners:
            runner.age += seconds
        self.runners = [runner for runner in self.runners if runner.may_act]
        if self.client.type(lease_key(CLAIM)) == b"hash" and self.client.hexists(lease_key(CLAIM), "renewed"):
            self.client.hincrby(lease_key(CLAIM), "renewed", -int(seconds * 1000))
        if self.client.hexists("manager:fleet", "until"):
            self.client.hincrby("manager:fleet", "until", -int(seconds * 1000))

    @rule()
    def force(self) -> None:
        """An operator revokes the lease of a lost host."""
        if self.store.revoke(CLAIM):
            for runner in self.runners:
                runner.forced = True

    @rule()
    def forget(self) -> None:
        """Redis comes back empty, and the running workers renew their leases within the quarantine."""
        self.server.forget()
        with pytest.raises(Quarantine):
            self.store.acquire(
                [CLAIM],
                host="h3",
                worker_id="early",
                account_id="a",
                ttl_seconds=0,
                quarantine_seconds=QUARANTINE,
            )
        for runner in sorted(self.runners, key=lambda one: -one.epoch):
            self._renew(runner)

    @invariant()
    def one_may_act(self) -> None:
        entitled = [runner for runner in self.runners if runner.may_act and not runner.forced]
        assert len(entitled) <= 1, entitled

    def _renew(self, runner: Runner) -> None:
        beats = LeaseBeats(
            self.client,
            host=runner.host,
            beats_key="beats",
            claims=[CLAIM],
            epoch=runner.epoch,
            ttl_seconds=runner.ttl,
        )
        try:
            beats.send("a", {"worker_id": runner.name})
        except LeaseHeld:
            assert runner.forced or not runner.may_act, "a worker that may act is never refused"
            self.runners.remove(runner)
        else:
            newest = max(other.epoch for other in self.runners)
            assert runner.epoch == newest, "a renewal with an old epoch is refused"
            runner.age = 0.0


@pytest.mark.long
def test_leases_against_a_model() -> None:
    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    try:
        Leases.server = RedisServer(directory)
        try:
            case = Leases.TestCase
            case.settings = settings(
                max_examples=300,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            case("runTest").runTest()
        finally:
            Leases.server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
