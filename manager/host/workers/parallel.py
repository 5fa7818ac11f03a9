"""Many commands at once on a pool of this process, each accounted for."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from manager.models import BatchResult, WorkerInfo
from manager.pool.protocol import Progress

T = TypeVar("T")

_THREADS: Final = 32


def run_batch(
    items: Sequence[tuple[str, T]],
    one: Callable[[T], tuple[str, WorkerInfo | str]],
    progress: Progress | None,
) -> BatchResult:
    """Do `one` for each (account, item); it returns a part of the result, and what stands there for the account."""
    parts: dict[str, dict[str, Any]] = {"done": {}, "already": {}, "skipped": {}, "failed": {}}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="batch") as threads:
        for (account_id, _), (outcome, what) in zip(
            items, threads.map(lambda item: one(item[1]), items), strict=True
        ):
            parts[outcome][account_id] = what
            if progress is not None:
                progress(account_id, outcome)
    return BatchResult(**parts)
