"""Internal tasks: self-test of a host agent, fleet-wide housekeeping."""

from manager import wire
from tasks.app import app, self_test_received, tidy_fleet


# Without events, so that Flower shows only tasks of callers.
@app.task(name=wire.SELF_TEST, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def self_test() -> None:
    """Record that this agent receives messages."""
    self_test_received()


@app.task(name=wire.TIDY, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def tidy() -> None:
    """Run fleet-wide housekeeping.

    `manager scheduler` sends this once per minute.
    """
    tidy_fleet()
