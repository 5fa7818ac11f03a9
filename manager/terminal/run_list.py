"""`manager history` as text: one line for each run. Imports no rich."""

from collections.abc import Mapping, Sequence
from typing import Final

from manager.fleet.run_types import SCHEDULE, Run
from manager.system.text import printable, shortened
from manager.terminal.list_text import seconds_text
from manager.terminal.listing import size_text

_COLUMNS: Final = ("started (UTC)", "ran", "host", "started by", "state", "memory", "equity", "ended by")
#: Columns that a narrow terminal leaves out, in this order.
_DROPPED: Final = ("memory", "equity", "host")
_RIGHT: Final = frozenset({"ran", "memory", "equity"})
#: Width of the last column, in characters, below which other columns are left out.
_TEXT_WIDTH: Final = 32


def run_lines(runs: Sequence[Run], width: int | None) -> list[str]:
    """Return the header and a line for each run.

    Without a `width` (in characters) nothing is cut or left out.
    """
    table = [{name: " ".join(printable(text).split()) for name, text in _cells(run).items()} for run in runs]
    columns = list(_COLUMNS)
    widths = {name: max(len(name), *(len(line[name]) for line in table)) for name in columns}
    if width is not None:
        longest = min(widths[columns[-1]], _TEXT_WIDTH)
        for name in _DROPPED:
            if _total(columns, widths) + longest > width:
                columns.remove(name)
    room = None if width is None else max(_TEXT_WIDTH, width - _total(columns, widths))
    header = {name: name for name in columns}
    return [_line(line, columns, widths, room) for line in (header, *table)]


def _cells(run: Run) -> Mapping[str, str]:
    return {
        "started (UTC)": f"{run.started_at:%Y-%m-%d %H:%M:%S}",
        "ran": seconds_text(run.seconds),
        "host": run.host,
        "started by": asked_text(run.why, run.by) or "unknown",
        "state": run.status,
        "memory": "" if run.memory_peak_bytes is None else size_text(run.memory_peak_bytes),
        "equity": equity_text(run),
        "ended by": ended_text(run),
    }


def asked_text(why: str, by: str) -> str:
    """Return why a run began or ended, and who asked for it."""
    return f"{why} by {by}" if why and by else why or by


def ended_text(run: Run) -> str:
    """Return why a run ended, and how."""
    asked = "its schedule" if run.ended_why == SCHEDULE else asked_text(run.ended_why, run.ended_by)
    parts = [asked, run.reason or ("" if asked or not run.observed else "itself")]
    if not run.observed:
        parts.append("a later host agent found it dead")
    return "; ".join(part for part in parts if part)


def equity_text(run: Run) -> str:
    """Return the equity at the beginning and at the end, if they are known."""
    if run.equity_last is None:
        return ""
    first = run.equity_first
    change = run.equity_last if first in (None, run.equity_last) else f"{first} -> {run.equity_last}"
    return f"{change} {run.currency or ''}".strip()


def _total(columns: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[name] + 2 for name in columns[:-1])


def _line(
    cells: Mapping[str, str], columns: Sequence[str], widths: Mapping[str, int], room: int | None
) -> str:
    *names, last = columns
    parts = [
        cells[name].rjust(widths[name]) if name in _RIGHT else cells[name].ljust(widths[name])
        for name in names
    ]
    return "  ".join([*parts, shortened(cells[last], room)]).rstrip()
