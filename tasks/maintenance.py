"""Tasks that host agents send themselves."""

from manager import wire
from tasks.app import app, heard_self


# Without events: Flower is for what people asked for.
@app.task(name=wire.SELF_TEST, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def self_test() -> None:
    """Show the agent that it still consumes."""
    heard_self()
