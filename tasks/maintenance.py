"""Tasks that nobody asks for: of host agents to themselves, and of the scheduler."""

from manager import wire
from tasks.app import app, heard_self, tidy_fleet


# Without events: Flower is for what people asked for.
@app.task(name=wire.SELF_TEST, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def self_test() -> None:
    """Show the agent that it still consumes."""
    heard_self()


@app.task(name=wire.TIDY, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def tidy() -> None:
    """Tidy the fleet's records; `manager scheduler` sends this each minute."""
    tidy_fleet()
