"""`manager ps` as lines of text: whole words at every width, and one line for each account."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from manager.models import WorkerInfo
from manager.states import SETTLED, WorkerLifecycleStatus
from manager.terminal.tables import Others, seconds_text
from manager.terminal.text import printable

_COLUMNS: Final = (
    *("account", "state", "health", "host", "pid", "uptime", "restarts", "equity", "pos", "beat", "error"),
)
_RIGHT: Final = frozenset({"pid", "uptime", "restarts", "equity", "pos", "beat"})
#: What a narrow terminal does without, in this order. The host is never among them.
_DROPPED: Final = ("pid", "beat", "pos", "equity", "uptime", "restarts", "health")
#: Columns that an error should have at least, before others give way to it.
_ERROR_WIDTH: Final = 24

SORTS: Final = ("account", "state", "host", "uptime", "restarts", "equity")


@dataclass(frozen=True, slots=True)
class Row:
    """One account of the list, as text."""

    cells: Mapping[str, str]
    uptime: float = 0.0
    restarts: int = 0
    equity: float = 0.0


def make_rows(workers: Iterable[WorkerInfo], others: Others, now: datetime | None = None) -> list[Row]:
    """Return a row for each worker, and for each account that has none with the reason; by account id."""
    moment = now or datetime.now(UTC)
    shown = {info.account_id: info for info in workers}
    rows: list[Row] = []
    for account_id in sorted({*shown, *others}):
        info = shown.get(account_id)
        if info is None:
            state, why = others[account_id]
            rows.append(Row({"account": account_id, "state": state, "error": why}))
            continue
        row = _row(info, moment)
        if account_id in others:
            # The file's own trouble is said beside what its worker does.
            state, why = others[account_id]
            error = "; ".join(filter(None, (why, row.cells["error"])))
            cells = {**row.cells, "error": error}
            if info.status in SETTLED and state in ("disabled", "invalid", "file gone"):
                cells["state"] = state
            row = Row(cells, row.uptime, row.restarts, row.equity)
        rows.append(row)
    return rows


def sort_rows(rows: Sequence[Row], by: str) -> list[Row]:
    """Return the rows sorted; figures with the largest first."""
    if by in ("uptime", "restarts", "equity"):
        return sorted(rows, key=lambda row: (-float(getattr(row, by)), row.cells["account"]))
    return sorted(rows, key=lambda row: (row.cells.get(by, ""), row.cells["account"]))


def lines(rows: Sequence[Row], width: int | None) -> list[str]:
    """Return the header and a line for each row; without a width nothing is cut or left out."""
    columns = list(_COLUMNS)
    table = [
        {name: " ".join(printable(row.cells.get(name, "")).split()) for name in _COLUMNS} for row in rows
    ]
    widths = {name: max(len(name), *(len(line[name]) for line in table), 0) for name in _COLUMNS}
    if width is not None:
        longest = min(widths["error"], _ERROR_WIDTH)
        for name in _DROPPED:
            if _total(columns, widths) + longest <= width:
                break
            columns.remove(name)
    room = None if width is None else max(0, width - _total(columns, widths))
    return [_line(dict(zip(_COLUMNS, _COLUMNS, strict=True)), columns, widths, room)] + [
        _line(line, columns, widths, room) for line in table
    ]


def _total(columns: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[name] + 2 for name in columns if name != "error")


def _line(
    cells: Mapping[str, str], columns: Sequence[str], widths: Mapping[str, int], room: int | None
) -> str:
    parts = [
        cells[name].rjust(widths[name]) if name in _RIGHT else cells[name].ljust(widths[name])
        for name in columns
        if name != "error"
    ]
    return "  ".join([*parts, _short(cells["error"], room)]).rstrip()


def _short(text: str, room: int | None) -> str:
    """Return as many whole words as there is room for."""
    if room is None or len(text) <= room:
        return text
    kept = text[: max(0, room - 4)]
    if not text[len(kept) : len(kept) + 1].isspace():
        kept = kept.rpartition(" ")[0]
    return f"{kept.rstrip()} ..." if kept.strip() else ("..." if room >= 3 else "")


def _row(info: WorkerInfo, now: datetime) -> Row:
    data = info.metadata
    present = info.status not in SETTLED
    uptime = (now - info.started_at).total_seconds() if present and info.started_at is not None else 0.0
    if info.status in (WorkerLifecycleStatus.RESTARTING, WorkerLifecycleStatus.STARTING):
        uptime = 0.0
    restarts = data.get("restarts")
    equity, age, positions = data.get("equity"), data.get("heartbeat_age_seconds"), data.get("open_positions")
    why = info.error or (data.get("health_reason") if present else None) or ""
    # A worker that has ended, and waits for the next one, is not as well as it said last.
    healthy = present and info.status is not WorkerLifecycleStatus.RESTARTING
    cells = {
        "account": info.account_id,
        "state": str(info.status),
        "health": str(info.health) if healthy else "",
        "host": str(data.get("host") or ""),
        "pid": str(data.get("pid") or "") if healthy else "",
        "uptime": seconds_text(uptime) if uptime else "",
        "restarts": str(restarts) if isinstance(restarts, int) and restarts else "",
        "equity": f"{equity} {data.get('currency') or ''}".strip() if present and equity else "",
        "pos": str(positions) if present and positions is not None else "",
        "beat": f"{age:.0f}s" if healthy and isinstance(age, int | float) else "",
        "error": str(why),
    }
    return Row(cells, uptime, restarts if isinstance(restarts, int) else 0, _number(equity))


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
