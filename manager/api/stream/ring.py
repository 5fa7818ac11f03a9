"""The latest events, kept once for all stream clients.

A client has only a position. It reads from the ring if that contains its position, else from Redis.
Therefore a slow client costs no memory, and gets every event exactly once.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from manager.api.rendering import to_json
from manager.fleet.cursors import Cursor, Position
from manager.fleet.event_types import Event

#: Events that the ring keeps, and how many it drops at once when it is full.
_KEPT: Final = 4_000
_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True)
class RingEvent:
    """An event with its position and its JSON, encoded once for all clients."""

    position: Position
    event: Event
    json: bytes


def ring_event(event: Event, stream: str) -> RingEvent:
    """Encode an event of the stream with this id."""
    data = event.to_dict()
    data["cursor"] = f"{stream}:{event.id}"
    return RingEvent(Position.parse(event.id), event, to_json(data))


class EventRing:
    """The events of one stream after `after`, complete. Used on one thread."""

    def __init__(self, cursor: Cursor) -> None:
        self.stream = cursor.stream
        self._after = cursor.position
        self._events: list[RingEvent] = []
        self._positions: list[Position] = []

    @property
    def head(self) -> Cursor:
        """The newest event that the ring holds or knows of."""
        return Cursor(self.stream, self._positions[-1] if self._positions else self._after)

    def extend(self, events: Iterable[Event]) -> None:
        """Add events, oldest first; skip those that the ring already has."""
        head = self.head.position
        for event in events:
            one = ring_event(event, self.stream)
            if one.position <= head:
                continue
            head = one.position
            self._events.append(one)
            self._positions.append(head)
        excess = len(self._events) - _KEPT
        if excess > 0:
            dropped = excess + _CHUNK
            self._after = self._positions[dropped - 1]
            del self._events[:dropped], self._positions[:dropped]

    def since(self, position: Position, most: int) -> Sequence[RingEvent] | None:
        """Return at most `most` events after a position.

        Returns None if the ring dropped some of them; read those from Redis.
        """
        if position < self._after:
            return None
        first = bisect_right(self._positions, position)
        return self._events[first : first + most]
