"""The progress bar of a batch, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: What is called for each account that is done, with its outcome; `manager.pool.protocol.Progress`.
OnProgress = Callable[[str, str], None]


@contextmanager
def batch_progress(
    console: Console, what: str, total: int | None, *, quiet: bool = False
) -> Iterator[OnProgress | None]:
    """Yield what to call for each account that is done; None where nobody watches."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def on_progress(account_id: str, outcome: str) -> None:
            if outcome != "skipped":
                bar.update(task, advance=1, description=f"{what} {account_id}")

        yield on_progress
