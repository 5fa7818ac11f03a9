"""Cursors: positions from which a reader of the event stream continues.

A cursor is `<stream id>:<ms>-<seq>`. The stream id (`manager:events:id`, 8 hex digits) changes when Redis has
lost its data and the stream begins again. A reader gets exactly the entries after its cursor.

A cursor is *gone* if its stream was replaced, or if entries after it may have been trimmed. A cursor that is
declared gone one entry too early does no harm: the reader lists the fleet again.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from manager.errors import InvalidCursorError

_POSITION: Final = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")
#: Milliseconds and sequence numbers of Redis have 64 bits each.
_MOST: Final = 2**64 - 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """An entry's position in the stream.

    Consists of milliseconds by Redis's clock and a sequence number.
    """

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `<ms>-<seq>` or `<ms>`. Raises InvalidCursorError."""
        found = _POSITION.fullmatch(text)
        if found is None or max(int(found[1]), int(found[2] or 0)) > _MOST:
            raise InvalidCursorError(
                f"{text[:60]!r} is not a cursor: give one that an event page or stream returned, like "
                "5f3a09c1:1795609058334-0"
            )
        return cls(int(found[1]), int(found[2] or 0))

    def before(self) -> "Position":
        """Return the position directly before this one; that of START is START."""
        if self.seq:
            return Position(self.ms, self.seq - 1)
        return Position(self.ms - 1, _MOST) if self.ms else self

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


#: The position before the first entry of any stream.
START: Final = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the stream with this id."""

    stream: str
    position: Position

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `<stream id>:<ms>-<seq>`. Raises InvalidCursorError."""
        stream, _, place = text.rpartition(":")
        return cls(stream, Position.parse(place))

    def __str__(self) -> str:
        return f"{self.stream}:{self.position}"
