"""Records of batches: commands for many accounts at once.

A caller can leave and query the outcome later.

    manager:batch:<id>     hash: `` (the batch, JSON), account id → task id, or the outcome without a task
    manager:batches        sorted set: batch id → time (seconds, by Redis's clock)

A batch's id is the id of its Celery group. The outcome of a task is in the task's result, not here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from manager.fleet.parsing import json_object, moment, string
from manager.fleet.redis_client import open_client, translated

BATCHES_KEY: Final = "manager:batches"
#: As long as Celery keeps results.
KEPT_SECONDS: Final = 86_400
_LISTED: Final = 1000
#: Outcomes of an account without a task. Only a validation is `done` without one.
_SETTLED: Final = ("done", "skipped", "failed")


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as it was requested."""

    id: str
    #: A command such as start, or validate.
    what: str
    by: str
    time: datetime
    #: Account → id of its task.
    tasks: Mapping[str, str] = field(default_factory=dict)
    #: Account for which no task was sent → (`done`, `skipped` or `failed`, reason).
    settled: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class BatchStore:
    """Reads and writes batches.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)

    def close(self) -> None:
        self._client.close()

    def save(
        self,
        batch_id: str,
        what: str,
        by: str,
        tasks: Mapping[str, str],
        settled: Mapping[str, tuple[str, str]],
    ) -> None:
        """Record a batch, before its tasks are sent."""
        with translated(self._url):
            seconds, micros = self._client.time()
            now = seconds + micros / 1e6
            head = {"what": what, "by": by, "time": now}
            fields = {
                "": json.dumps(head),
                **{account_id: json.dumps({"task": task}) for account_id, task in tasks.items()},
                **{account_id: json.dumps({"settled": list(end)}) for account_id, end in settled.items()},
            }
            key = _key(batch_id)
            pipe = self._client.pipeline(transaction=True)
            pipe.delete(key)
            pipe.hset(key, mapping=fields)
            pipe.expire(key, KEPT_SECONDS)
            pipe.zadd(BATCHES_KEY, {batch_id: now})
            pipe.zremrangebyscore(BATCHES_KEY, 0, now - KEPT_SECONDS)
            pipe.zremrangebyrank(BATCHES_KEY, 0, -_LISTED - 1)
            pipe.execute()

    def settle(self, batch_id: str, settled: Mapping[str, tuple[str, str]]) -> None:
        """Record the outcomes of accounts that have no task, or whose task could not be sent."""
        fields = {account_id: json.dumps({"settled": list(end)}) for account_id, end in settled.items()}
        with translated(self._url):
            self._client.hset(_key(batch_id), mapping=fields)

    def read(self, batch_id: str) -> BatchRecord | None:
        """Return the batch; None if it does not exist or is more than a day old."""
        with translated(self._url):
            raw = self._client.hgetall(_key(batch_id))
        fields = {string(key): json_object(value) or {} for key, value in raw.items()}
        head = fields.pop("", {})
        when = moment(head.get("time"))
        if when is None:
            return None
        tasks: dict[str, str] = {}
        settled: dict[str, tuple[str, str]] = {}
        for account_id, data in fields.items():
            end = data.get("settled")
            if "task" in data:
                tasks[account_id] = str(data["task"])
            elif isinstance(end, list) and len(end) == 2 and end[0] in _SETTLED:
                settled[account_id] = (end[0], str(end[1]))
        return BatchRecord(batch_id, str(head.get("what")), str(head.get("by")), when, tasks, settled)

    def newest(self, count: int) -> list[str]:
        """Return the ids of the `count` newest batches, newest first."""
        with translated(self._url):
            found = self._client.zrevrange(BATCHES_KEY, 0, count - 1)
        return [string(batch_id) for batch_id in found]


def _key(batch_id: str) -> str:
    return f"manager:batch:{batch_id}"
