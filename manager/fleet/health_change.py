"""A change of a running worker's health, as an event carries it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A worker's health that became another one."""

    old: str
    new: str
    #: Why it is as it is now; None where it is healthy.
    reason: str | None
    #: Changes in between that no event tells of.
    untold: int = 0
