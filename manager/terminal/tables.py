"""The live table of `manager up`, and its plain lines without a terminal."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from manager.models import ValidationResult, WorkerInfo
from manager.states import NOT_UP, WorkerLifecycleStatus
from manager.system.text import printable, shortened
from manager.telemetry.attention import AccountState, account_attention
from manager.terminal.attention_order import attention_rank
from manager.terminal.list_text import Others, mode_text, seconds_text

_STYLES = {
    "running": "green",
    "starting": "cyan",
    "stopping": "cyan",
    "restarting": "yellow",
    "failed": "bold red",
    "unknown": "bold yellow",
    "stopped": "dim",
    "disabled": "dim",
    "invalid": "bold red",
    "not read": "bold red",
    "healthy": "green",
    "degraded": "yellow",
    "unhealthy": "bold red",
}

#: Terminal width, in characters, from which host and pid are shown.
_WIDE_ONLY = 100

#: Smallest width of the error column, in characters.
_ERROR_WIDTH = 12


def worker_table(
    workers: Iterable[WorkerInfo],
    others: Others | None = None,
    *,
    now: datetime | None = None,
    width: int | None = None,
    rows: int | None = None,
) -> Table:
    """Return the table of workers in attention order.

    `others` are accounts without a worker, with the reason. `rows` is the number of rows that fit, `width`
    the terminal's width in characters.
    """
    moment = now or datetime.now(UTC)
    wide = width is None or width >= _WIDE_ONLY
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("account", "state", "health", *(("host", "pid") if wide else ())):
        table.add_column(name, no_wrap=True)
    for name in ("uptime", "equity", "pos", "beat"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("error", ratio=1, overflow="fold")
    shown = {info.account_id: info for info in workers}
    extra = others or {}
    # Trouble first, because a screen shows only the first of hundreds.
    ordered = sorted({*shown, *extra}, key=lambda one: (_rank(one, shown, extra), one))
    lines: list[list[Any]] = []
    for account_id in ordered[:rows]:
        info = shown.get(account_id)
        # The reason that prevents a start is more useful than the exit reason of the last worker.
        if info is None or (account_id in extra and not _present(info)):
            state, why = extra[account_id]
            cells: list[Any] = [
                plain(account_id),
                _styled(state),
                "",
                *(("", "") if wide else ()),
                "",
                "",
                "",
                "",
                plain(why),
            ]
        else:
            cells = _cells(info, moment, wide)
        lines.append(cells)
    # One line per account, so that many fit: `manager info` shows the complete text.
    names = [str(column.header) for column in table.columns[:-1]]
    taken = sum(
        2 + max(len(name), *(len(str(line[index])) for line in lines), 0) for index, name in enumerate(names)
    )
    room = None if width is None else max(_ERROR_WIDTH, width - taken)
    for line in lines:
        table.add_row(*line[:-1], plain(shortened(str(line[-1]), room)))
    return table


def _rank(account_id: str, shown: Mapping[str, WorkerInfo], extra: Others) -> int:
    info = shown.get(account_id)
    if info is None or (account_id in extra and not _present(info)):
        return attention_rank(extra[account_id][0])
    found = account_attention(AccountState(account_id=account_id, worker=info), 0.0)
    return attention_rank(str(info.status), found)


def _cells(info: WorkerInfo, now: datetime, wide: bool) -> list[Any]:
    placement, metrics = info.placement, info.metrics
    live = _present(info)
    placed = [placement.host or "", str(placement.pid or "") if live else ""] if wide else []
    uptime = seconds_text((now - info.started_at).total_seconds()) if live and info.started_at else ""
    equity = f"{metrics.equity} {metrics.currency or ''}".strip() if metrics.equity else ""
    positions, age = metrics.open_positions, metrics.heartbeat_age_seconds
    why = info.error or (metrics.health_reason if live else None) or mode_text(info)
    cells = [
        *placed,
        uptime,
        equity if live else "",
        str(positions) if live and positions is not None else "",
        f"{age:.0f}s" if live and age is not None else "",
        " ".join(str(why).split()),
    ]
    return [
        plain(info.account_id),
        _styled(str(info.status)),
        _styled(str(info.health)) if _up(info) else "",
        *map(plain, cells),
    ]


def plain(text: str) -> Text:
    """Return a table cell without markup or control characters.

    The text may come from other hosts or programs.
    """
    return Text(printable(text))


def _present(info: WorkerInfo) -> bool:
    return info.status not in (WorkerLifecycleStatus.STOPPED, WorkerLifecycleStatus.FAILED)


def _up(info: WorkerInfo) -> bool:
    """Return whether the worker has a process that can report health."""
    return _present(info) and info.status not in NOT_UP


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def validation_lines(results: Mapping[str, ValidationResult]) -> list[tuple[str, str]]:
    """Return (style, line) for every validation finding, then a summary line."""
    lines: list[tuple[str, str]] = []
    for result in results.values():
        lines += [("red", f"error: {text}") for text in result.errors]
        lines += [("yellow", f"warning: {text}") for text in result.warnings]
    invalid = sum(result.has_errors for result in results.values())
    warned = sum(result.has_warnings and not result.has_errors for result in results.values())
    counted = f"accounts: {len(results) - invalid} valid"
    counted += f" ({warned} with warnings)" if warned else ""
    return [*lines, ("", counted + (f", {invalid} invalid" if invalid else ""))]


def change_lines(before: Mapping[str, WorkerInfo], now: Mapping[str, WorkerInfo]) -> list[str]:
    """Return a line for each account whose state or health changed."""
    lines: list[str] = []
    for account_id, info in sorted(now.items()):
        old = before.get(account_id)
        if old is not None and (old.status, old.health) == (info.status, info.health):
            continue
        why = info.error or info.metrics.health_reason
        line = f"{account_id} {info.status}" + (f" {info.health}" if _up(info) else "")
        lines.append(line + (f": {' '.join(str(why).split())}" if why else ""))
    return lines
