"""Where the event stream begins and ends, and whether a reader can continue at a cursor.

A reader cannot continue, and the cursor is gone, in three cases:

- the stream has another id: Redis lost its data, and the stream began again;
- entries after the cursor were trimmed;
- the cursor is after the newest entry: a Redis that took over had not received the latest entries. New ones
  could get ids before the cursor, and the reader would never see them.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from manager.errors import CursorGoneError, InvalidCursorError
from manager.fleet.cursors import START, Cursor, Position
from manager.fleet.keys import EVENTS_KEY

STREAM_ID_KEY: Final = "manager:events:id"
_STREAM_ID: Final = re.compile(r"[0-9a-f]{8}")
#: Fraction of the kept entries from which a stream without `entries-added` (Redis 6.2) counts as trimmed.
_NEARLY_FULL: Final = 0.9
_OLDEST: Final = "0"
_LIST_AGAIN: Final = "list the fleet again, then follow from the new cursor"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlace:
    """The stream at one moment."""

    #: Its id; empty if it has none.
    stream: str
    length: int = 0
    #: Entries that were ever added; None: Redis 6.2 does not count them.
    added: int | None = 0
    first: Position | None = None
    #: The id of the newest entry, also if that was deleted.
    last: Position = START

    def oldest(self, kept: int) -> Position:
        """Return the position before the oldest entry that a reader can get."""
        trimmed = self.length >= kept * _NEARLY_FULL if self.added is None else self.added > self.length
        if not trimmed:
            return START
        return self.last if self.first is None else self.first.before()

    def require(self, cursor: Cursor, *, kept: int) -> None:
        """Raise CursorGoneError if a reader cannot continue at the cursor."""
        oldest = self.oldest(kept)
        if cursor.stream != self.stream:
            why = "the event stream was replaced after this cursor was returned, as when Redis lost its data"
        elif cursor.position < oldest:
            why = "events after this cursor are no longer kept"
        elif cursor.position > self.last:
            why = "this cursor is after the newest event, as when Redis lost the latest ones"
        else:
            return
        raise CursorGoneError(f"{why}: {_LIST_AGAIN}", oldest=str(Cursor(self.stream, oldest)))


def queue_place(pipe: Any) -> None:
    """Queue the commands whose answers `read_place` takes."""
    pipe.get(STREAM_ID_KEY)
    pipe.xinfo_stream(EVENTS_KEY)


def read_place(answers: Sequence[Any]) -> StreamPlace:
    """Return the stream's place from the answers to `queue_place`. Errors of redis-py are raised."""
    found, info = answers
    if isinstance(found, Exception):
        raise found
    stream = bytes(found or b"").decode(errors="replace")
    if isinstance(info, ResponseError) and not isinstance(info, NoPermissionError):
        return StreamPlace(stream=stream)  # there is no stream yet
    if isinstance(info, Exception):
        raise info
    first, added = info.get("first-entry"), info.get("entries-added")
    return StreamPlace(
        stream=stream,
        length=int(info.get("length", 0)),
        # `max-deleted-entry-id` does not show trimming, which leaves it at 0-0 (seen with Redis 7.0.15).
        added=None if added is None else int(added),
        first=None if first is None else Position.parse(first[0].decode()),
        last=Position.parse(bytes(info["last-generated-id"]).decode()),
    )


def stream_id(client: Any) -> str:
    """Return the id of the event stream, and create it if it is missing.

    Returns an empty string if it is missing and this user may not write it. Errors of redis-py propagate.
    """
    found = client.get(STREAM_ID_KEY)
    if found is None:
        try:
            client.set(STREAM_ID_KEY, secrets.token_hex(4), nx=True)
        except (NoPermissionError, ReadOnlyError):
            return ""
        found = client.get(STREAM_ID_KEY)
    return bytes(found or b"").decode(errors="replace")


def read_cursor(client: Any, text: str, *, kept: int) -> Cursor:
    """Return the cursor that `text` names, ready to read after it.

    `text` is a cursor, `<id>:$` (now), `<id>:0` (before the oldest entry kept), or any of these without an
    id. Errors of redis-py propagate.

    Raises:
        InvalidCursorError: `text` is not a cursor.
        CursorGoneError: a reader cannot continue there.
    """
    stream, separator, where = text.rpartition(":")
    if separator and not _STREAM_ID.fullmatch(stream):
        raise InvalidCursorError(f"{text[:60]!r} is not a cursor: its stream id is not 8 hexadecimal digits")
    position = START if where in {"$", _OLDEST} else Position.parse(where)
    pipe = client.pipeline(transaction=False)
    queue_place(pipe)
    place = read_place(pipe.execute(raise_on_error=False))
    if not place.stream:
        place = StreamPlace(
            stream=stream_id(client),
            length=place.length,
            added=place.added,
            first=place.first,
            last=place.last,
        )
    if where == "$":
        position = place.last
    elif where == _OLDEST:
        position = place.oldest(kept)
    cursor = Cursor(stream if separator else place.stream, position)
    place.require(cursor, kept=kept)
    return cursor
