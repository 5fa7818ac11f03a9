"""Selects the events that a reader requested and may read."""

from collections.abc import Collection, Sequence

from manager.api.stream.hub import Hub
from manager.fleet.event_types import EventFilter
from manager.placement.labels import Selection
from manager.telemetry.fleet_reader import FleetListing


class EventScope:
    """Filters the events of one reader.

    The groups and labels at the time of sending count, so that a long stream follows their changes. A reader
    with a selection gets no events without an account.
    """

    def __init__(
        self,
        *,
        types: Sequence[str] = (),
        accounts: Collection[str] | None = None,
        select: Selection | None = None,
        readable: Selection | None = None,
    ) -> None:
        """Create a filter.

        `accounts` None means all. `select` is the reader's request, `readable` is what its token allows.
        """
        self._fixed = EventFilter(
            types=tuple(types), accounts=None if accounts is None else frozenset(accounts)
        )
        self._selections = [one for one in (select, readable) if one is not None and one]
        self._filter: tuple[str, EventFilter] | None = None

    @property
    def needs_state(self) -> bool:
        """Whether the filter depends on the fleet's state."""
        return bool(self._selections)

    def filter(self, state: FleetListing | None) -> EventFilter:
        """Return the filter for this state of the fleet."""
        if state is None or not self._selections:
            return self._fixed
        if self._filter is None or self._filter[0] != state.version:
            inside = frozenset(
                one.account_id
                for one in state.accounts.values()
                if all(one.within(selection) for selection in self._selections)
            )
            named = self._fixed.accounts
            accounts = inside if named is None else inside & named
            self._filter = (state.version, EventFilter(types=self._fixed.types, accounts=accounts))
        return self._filter[1]

    async def current(self, hub: Hub) -> EventFilter:
        """Return the filter for the current state of the fleet. Raises FleetUnavailableError."""
        return self.filter(await hub.state() if self._selections else None)
