"""The audit trail: who asked for what, from where, when, and with what outcome. A stream in Redis, exported as lines.

manager:audit    entries `asked` (written in the same script as the desired state) and `done` (by the host that
                 carried it out, or refused it), tied by the command's id, which is its Celery task's id
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from manager.fleet.client import open_client, translated
from manager.fleet.reading import string

AUDIT_KEY: Final = "manager:audit"

#: Entries kept: about half a year of a desk that gives 250 commands a day.
_KEPT: Final = 100_000
_AT_ONCE: Final = 1000
#: Characters of a text that are kept; whoever reaches Redis can send any length.
_TEXT: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the trail."""

    id: str
    time: datetime
    #: `asked` or `done`.
    stage: str
    #: What was asked for: start, stop, restart, move, drain, config push, ...
    what: str
    account_id: str
    #: Who: user and machine, or for a plain Celery task the process that sent it.
    by: str
    #: Where it was sent, or was done.
    host: str
    #: The command's id.
    command: str
    #: Of `done`: `ok`, or the code of the error.
    outcome: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


class AuditTrail:
    """Writes and reads the trail. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)

    def close(self) -> None:
        self._client.close()

    def note(
        self,
        what: str,
        *,
        by: str,
        host: str = "",
        account_id: str = "",
        command: str = "",
        stage: str = "done",
        outcome: str = "ok",
        text: str = "",
    ) -> None:
        """Add one entry."""
        fields = {
            "stage": stage,
            "id": command,
            "what": what,
            "account": account_id,
            "by": by,
            "host": host,
            "outcome": outcome,
            "text": text,
        }
        with translated(self._url):
            self._client.xadd(
                AUDIT_KEY,
                {key: value[:_TEXT] for key, value in fields.items()},
                maxlen=_KEPT,
                approximate=True,
            )

    def last(self, count: int) -> list[AuditEntry]:
        """Return the newest `count` entries, the oldest of them first."""
        with translated(self._url):
            found = self._client.xrevrange(AUDIT_KEY, count=count)
        return [_read(entry_id, fields) for entry_id, fields in reversed(found)]

    def everything(self) -> Iterator[AuditEntry]:
        """Yield every entry, the oldest first."""
        after = "-"
        while True:
            with translated(self._url):
                found = self._client.xrange(AUDIT_KEY, min=after, count=_AT_ONCE)
            for entry_id, fields in found:
                yield _read(entry_id, fields)
            if len(found) < _AT_ONCE:
                return
            after = f"({found[-1][0].decode()}"

    def follow(self, after: str, *, wait_seconds: float = 1.0) -> list[AuditEntry]:
        """Return entries newer than `after`, waiting for the first at most `wait_seconds`."""
        with translated(self._url):
            answer = self._client.xread({AUDIT_KEY: after}, block=int(wait_seconds * 1000))
        return [_read(entry_id, fields) for entry_id, fields in (answer[0][1] if answer else [])]


def _read(entry_id: bytes, fields: Mapping[bytes, bytes]) -> AuditEntry:
    text = {string(key): string(value) for key, value in fields.items()}
    return AuditEntry(
        id=entry_id.decode(),
        time=datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, UTC),
        stage=text.get("stage", ""),
        what=text.get("what", ""),
        account_id=text.get("account", ""),
        by=text.get("by", ""),
        host=text.get("host", ""),
        command=text.get("id", ""),
        outcome=text.get("outcome", ""),
        text=text.get("text", ""),
    )
