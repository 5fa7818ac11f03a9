"""`manager ps` as text: one line per account, words never cut."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from manager.models import WorkerInfo
from manager.states import NOT_UP, SETTLED, WorkerLifecycleStatus
from manager.system.text import printable, shortened
from manager.telemetry.attention import AccountState, Attention, Severity, account_attention, worst
from manager.terminal.attention_order import attention_rank
from manager.terminal.list_text import Others, mode_text, seconds_text

COLUMNS: Final = (
    *("account", "state", "health", "host", "pid", "uptime", "restarts", "cpu", "memory", "procs"),
    *("equity", "pos", "beat", "attention"),
)
_RIGHT: Final = frozenset(
    {"pid", "uptime", "restarts", "cpu", "memory", "procs", "equity", "pos", "beat"},
)
#: Columns that a narrow terminal leaves out, in this order. The host is always shown.
_DROPPED: Final = (
    *("procs", "pid", "beat", "memory", "cpu", "pos", "equity", "uptime", "restarts", "health"),
)
_FIGURES: Final = frozenset({"uptime", "restarts", "cpu", "memory", "procs", "equity"})
#: Width of the last column, in characters, below which other columns are left out.
_TEXT_WIDTH: Final = 24

#: States of accounts whose file prevents a start.
_UNSTARTABLE: Final = frozenset({"disabled", "invalid", "file gone"})


@dataclass(frozen=True, slots=True)
class Row:
    """One account of the list, as text."""

    cells: Mapping[str, str]
    uptime: float = 0.0
    restarts: int = 0
    equity: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    procs: float = 0.0
    #: The attention items, the most urgent first.
    found: Sequence[Attention] = ()

    @property
    def rank(self) -> int:
        """The rank in attention order; see `attention_rank`."""
        return attention_rank(self.cells.get("state", ""), self.found)

    @property
    def severity(self) -> Severity | None:
        """The highest severity of its attention; None if there is none."""
        return worst(self.found)


def make_rows(
    workers: Iterable[WorkerInfo],
    others: Others,
    now: datetime | None = None,
    attention: Mapping[str, Sequence[Attention]] | None = None,
) -> list[Row]:
    """Return a row for each worker and each other account, by account id.

    `others` gives the state and reason of accounts that have no worker or cannot start. `attention` is what
    a person should look at, by account id. Without it each worker is judged without its desired state.
    """
    moment = now or datetime.now(UTC)
    shown = {info.account_id: info for info in workers}
    rows: list[Row] = []
    for account_id in sorted({*shown, *others}):
        info = shown.get(account_id)
        if info is None:
            state, why = others[account_id]
            found = () if attention is None else attention.get(account_id, ())
            why = found[0].text if found and state not in _UNSTARTABLE else why
            rows.append(Row({"account": account_id, "state": state, "attention": why}, found=found))
            continue
        if attention is None:
            found = account_attention(AccountState(account_id=account_id, worker=info), moment.timestamp())
        else:
            found = attention.get(account_id, ())
        row = _row(info, moment, found)
        if account_id in others:
            # A worker may run although its account file has a problem: show both.
            state, why = others[account_id]
            text = "; ".join(filter(None, (why, row.cells["attention"])))
            cells = {**row.cells, "attention": text}
            if info.status in SETTLED and state in _UNSTARTABLE:
                cells["state"] = state
            row = replace(row, cells=cells)
        rows.append(row)
    return rows


def sort_rows(rows: Sequence[Row], by: str) -> list[Row]:
    """Return the rows sorted: numbers largest first, `attention` trouble first."""
    if by == "attention":
        return sorted(rows, key=lambda row: (row.rank, row.cells["account"]))
    if by in _FIGURES:
        return sorted(rows, key=lambda row: (-float(getattr(row, by)), row.cells["account"]))
    return sorted(rows, key=lambda row: (row.cells.get(by, ""), row.cells["account"]))


def lines(
    rows: Sequence[Row],
    width: int | None,
    chosen: Sequence[str] = (),
    *,
    keep: Collection[str] = (),
    dropped: Sequence[str] = _DROPPED,
) -> list[str]:
    """Return the header and a line for each row.

    Without a `width` (in characters) nothing is cut or left out. `chosen` are the columns to show, in this
    order; all of them are shown. A narrow terminal leaves out empty columns first, then the columns `dropped`
    in this order, but none of `keep`.
    """
    shown = tuple(chosen) or COLUMNS
    columns = list(shown)
    table = [{name: " ".join(printable(row.cells.get(name, "")).split()) for name in shown} for row in rows]
    widths = {name: max(len(name), *(len(line[name]) for line in table), 0) for name in shown}
    if width is not None and not chosen:
        longest = min(widths["attention"], _TEXT_WIDTH)
        empty = [name for name in dropped if not any(line[name] for line in table)]
        for name in dict.fromkeys((*empty, *dropped)):
            if _total(columns, widths) + longest <= width:
                break
            if name not in keep:
                columns.remove(name)
    room = None if width is None else max(0, width - _total(columns, widths))
    header = {name: name for name in shown}
    return [_line(line, columns, widths, room) for line in (header, *table)]


def _total(columns: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[name] + 2 for name in columns if name != "attention")


def _line(
    cells: Mapping[str, str], columns: Sequence[str], widths: Mapping[str, int], room: int | None
) -> str:
    parts = [
        cells[name].rjust(widths[name]) if name in _RIGHT else cells[name].ljust(widths[name])
        for name in columns
        if name != "attention"
    ]
    if "attention" in columns:
        parts.append(shortened(cells["attention"], room))
    return "  ".join(parts).rstrip()


def _row(info: WorkerInfo, now: datetime, found: Sequence[Attention]) -> Row:
    placement, metrics = info.placement, info.metrics
    present = info.status not in SETTLED
    uptime = (now - info.started_at).total_seconds() if present and info.started_at is not None else 0.0
    if info.status in (WorkerLifecycleStatus.RESTARTING, WorkerLifecycleStatus.STARTING):
        uptime = 0.0
    restarts = placement.restarts or 0
    equity, age, positions = metrics.equity, metrics.heartbeat_age_seconds, metrics.open_positions
    cpu, memory, procs = metrics.cpu_percent, metrics.memory_bytes, metrics.processes
    noted = info.error or (metrics.health_reason if present else None)
    why = "; ".join(filter(None, (found[0].text if found else noted, mode_text(info))))
    # A restarting account has no process: its last health report is out of date.
    healthy = present and info.status is not WorkerLifecycleStatus.RESTARTING
    cells = {
        "account": info.account_id,
        "state": str(info.status),
        "health": str(info.health) if healthy and info.status not in NOT_UP else "",
        "host": placement.host or "",
        "pid": str(placement.pid or "") if healthy else "",
        "uptime": seconds_text(uptime) if uptime else "",
        "restarts": str(restarts) if restarts else "",
        "cpu": f"{cpu:.1f}%" if healthy and cpu is not None else "",
        "memory": size_text(memory) if healthy and memory is not None else "",
        "procs": str(procs) if healthy and procs is not None else "",
        "equity": f"{equity} {metrics.currency or ''}".strip() if present and equity else "",
        "pos": str(positions) if present and positions is not None else "",
        "beat": f"{age:.0f}s" if healthy and age is not None else "",
        "attention": why,
    }
    known = (figure if healthy and figure is not None else 0.0 for figure in (cpu, memory, procs))
    used = dict(zip(("cpu", "memory", "procs"), known, strict=True))
    return Row(cells, uptime, restarts, _number(equity), found=found, **used)


def size_text(size: float) -> str:
    """Return a size in bytes as text: 512 kB, 13.4 MB, 2.1 GB."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
