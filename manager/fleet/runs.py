"""Run history: one entry for each worker that has ended.

    manager:host:<name>:runs   stream: `run` (the worker's id), `account_id`, `data` (JSON of a `Run`)

The host writes an entry when a run ends, and keeps about the newest `RUNS_KEPT`. It may write a run twice if
its agent dies at that moment; readers keep the first entry of each worker id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from manager.fleet.keys import HOSTS_KEY, runs_key
from manager.fleet.parsing import string
from manager.fleet.redis_client import open_client, translated
from manager.fleet.run_types import RUNS_KEPT, Run, position

#: Entries of a host that one command reads.
_PAGE: Final = 500


class RunStore:
    """Reads and writes the run history.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None, *, kept: int = RUNS_KEPT) -> None:
        """`kept`: runs that the stream of each host keeps, about."""
        self._url = url
        self._client: Any = client or open_client(url)
        self._kept = kept

    def close(self) -> None:
        self._client.close()

    # written by host agents

    def write(self, host: str, runs: Sequence[Run]) -> list[str]:
        """Add runs to the host's stream; return the id of each entry."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            for run in runs:
                fields = {"run": run.worker_id, "account_id": run.account_id, "data": run.model_dump_json()}
                pipe.xadd(runs_key(host), fields, maxlen=self._kept, approximate=True)
            return [entry_id.decode() for entry_id in pipe.execute()]

    def written(self, host: str) -> dict[str, str]:
        """Return the worker ids in the host's stream, each with the id of its newest entry."""
        return {
            string(fields.get(b"run", b"")): entry_id.decode() for entry_id, fields in self._entries(host)
        }

    def lost(self, host: str, entry_ids: Iterable[str]) -> list[str]:
        """Return the entries that the stream has lost, as after a crash of Redis.

        An entry that is older than every kept one was trimmed and is not lost.
        """
        ids = list(entry_ids)
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.xrange(runs_key(host), count=1)
            for entry_id in ids:
                pipe.xrange(runs_key(host), min=entry_id, max=entry_id, count=1)
            oldest, *found = pipe.execute()
        first = _order(oldest[0][0].decode()) if oldest else None
        return [
            entry_id
            for entry_id, entries in zip(ids, found, strict=True)
            if not entries and (first is None or _order(entry_id) >= first)
        ]

    # read by everyone

    def of(self, account_id: str, last: int | None = None) -> list[Run]:
        """Return the account's newest runs on every host, newest first; all if `last` is None.

        Reads whole streams: about 2,000 entries for each host.
        """
        with translated(self._url):
            hosts = sorted(map(string, self._client.smembers(HOSTS_KEY)))
        wanted = account_id.encode()
        found: dict[str, Run] = {}
        for host in hosts:
            # Newest first, so that the oldest entry of a run that was written twice comes last and stays.
            for _, fields in self._entries(host):
                if fields.get(b"account_id") != wanted:
                    continue
                run = Run.from_json(fields.get(b"data", b""))
                if run is not None and run.account_id == account_id and run.host == host:
                    found[run.worker_id] = run
        return sorted(found.values(), key=position, reverse=True)[:last]

    def _entries(self, host: str) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
        """Yield the entries of a host's stream, newest first."""
        before = "+"
        while True:
            with translated(self._url):
                found = self._client.xrevrange(runs_key(host), max=before, count=_PAGE)
            yield from found
            if len(found) < _PAGE:
                return
            before = f"({found[-1][0].decode()}"


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
