"""The publisher: what Redis has lost, all of it or a part, is told again."""

from collections.abc import Iterable, Mapping
from typing import Any

from support.waiting import eventually

from manager.host.publisher import Publisher
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


class Store:
    """Stands in for Redis."""

    def __init__(self) -> None:
        self.records: dict[str, WorkerInfo] = {}
        self.word: Mapping[str, Any] | None = None
        self.said = 0

    def record(
        self,
        host: str,
        infos: Iterable[WorkerInfo],
        beats: Mapping[str, Mapping[str, Any]],
        *,
        events: bool = True,
    ) -> None:
        del host, beats, events
        self.records |= {info.account_id: info for info in infos}

    def report_agent(self, host: str, data: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, int]:
        del host
        before, self.word = self.word, data
        self.said += 1
        return before, len(self.records)

    def forget_agent(self, host: str) -> None:
        del host


def test_what_redis_lost_is_told_again_whole_or_in_part() -> None:
    infos = [
        WorkerInfo(worker_id=f"w{n}", account_id=f"a{n}", status=WorkerLifecycleStatus.RUNNING)
        for n in range(3)
    ]
    store = Store()
    publisher = Publisher(store, "h", dict, lambda: infos)
    publisher.start()
    for info in infos:
        assert publisher.publish(info, wait_seconds=5)
    publisher.announce()
    eventually(lambda: store.said >= 1, what="it has spoken")
    for lost in (["a1"], ["a0", "a1", "a2"]):  # its word is still there each time
        for account_id in lost:
            del store.records[account_id]
        eventually(lambda: len(store.records) == 3, what="the rest is told again")
    store.records, store.word = {}, None
    eventually(lambda: len(store.records) == 3, what="all is told again")
    publisher.close()
