"""The screen of `manager top` as rich text, for any terminal size."""

import textwrap
from collections import Counter
from typing import Final

from rich.text import Text

from manager.system.text import counted, printable, shortened
from manager.telemetry.attention import Attention, Severity
from manager.terminal.listing import lines
from manager.terminal.top_model import Top, TopAccount, question_text

_SEVERITIES: Final = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_STATES: Final = {"starting": "cyan", "stopping": "cyan", "restarting": "yellow", "running": ""}
#: Columns that stay when the terminal is narrow, by the sort order that needs them.
_SORT_COLUMNS: Final = frozenset({"equity", "memory", "cpu"})
#: Columns that a narrow terminal leaves out, in this order. Attention says what health and restarts do.
_DROPPED: Final = (
    *("procs", "pid", "beat", "restarts", "health", "uptime", "memory", "cpu", "pos", "equity"),
)
#: Lines that a message may take.
_MESSAGE_LINES: Final = 2
_KEYS: Final = (
    *("q quit", "? help", "/ filter", "o sort", "s start", "x stop", "r restart", "p pause/resume"),
    *("j k select", "a all accounts"),
)
_READ_ONLY_KEYS: Final = ("q quit", "? help", "/ filter", "o sort", "j k select", "a all accounts")
_HELP: Final = (
    ("Select", ""),
    ("up down, k j", "the previous or next account"),
    ("page up, page down", "ten accounts up or down"),
    ("home, end", "the first or last account"),
    ("", ""),
    ("Commands", "each asks first, and names the account's open positions"),
    ("s", "start the selected account"),
    ("x", "stop it"),
    ("r", "restart it with its current configuration"),
    ("p", "pause it, or resume it if it is paused"),
    ("", ""),
    ("List", ""),
    ("/", "filter; Enter keeps the filter, Escape cancels it"),
    ("", "all words must match, such as: london state:failed"),
    ("", "group:NAME  label:KEY=VALUE  state:STATE"),
    ("escape", "remove the filter"),
    ("o", "sort by attention, account, state, equity, memory, cpu"),
    ("a", "show or hide accounts that never had a worker"),
    ("q, Ctrl-C", "quit; workers are not affected"),
)


def screen(top: Top, width: int, height: int, columns: tuple[str, ...] = ()) -> list[Text]:
    """Return exactly `height` lines of at most `width` characters."""
    if top.help:
        body = _help(width)
        foot = [Text("any key returns to the list", style="dim")]
        return _fit([], body, foot, height)
    top.place()  # selects the first account if none is selected
    head = [_summary(top, width), *_notices(top, width)]
    foot = _foot(top, width, details=height >= _LEAST_FOR_DETAILS)
    room = max(2, height - len(head) - len(foot))
    return _fit(head, _table(top, width, room, columns), foot, height)


#: Lines of a terminal from which the selected account's details are shown.
_LEAST_FOR_DETAILS: Final = 12


def _fit(head: list[Text], body: list[Text], foot: list[Text], height: int) -> list[Text]:
    body = body[: max(0, height - len(head) - len(foot))]
    gap = [Text("")] * max(0, height - len(head) - len(body) - len(foot))
    return [*head, *body, *gap, *foot][:height]


def _summary(top: Top, width: int) -> Text:
    rows, accounts = top.rows(), top.fleet.accounts
    if not top.fleet.loaded:
        return Text("reading the fleet ...", style="dim")
    states = Counter(one.row.cells.get("state", "") for one in rows)
    shown, known = len(rows), len(accounts)
    count = counted(known, "account") if shown == known else f"{shown} of {counted(known, 'account')}"
    needing = sum(bool(one.row.found) for one in rows)
    line = Text(count, style="bold")
    if needing:
        line.append(f", {needing} need{'' if needing > 1 else 's'} attention", style="bold yellow")
    tail = [f", {number} {state}" for state, number in states.most_common()]
    tail.append(f" | sorted by {top.sort}")
    tail += [f" | filter: {printable(top.filter)}"] if top.filter else []
    for text in tail:
        if line.cell_len + len(text) <= width:
            line.append(text)
    return line


def _notices(top: Top, width: int) -> list[Text]:
    """Return what concerns the whole fleet: Redis, and hosts that need attention."""
    fleet = top.fleet
    if fleet.error:
        return _wrapped(fleet.error, width, "bold red")
    if fleet.stale_seconds is not None:
        text = f"Redis cannot be reached for {fleet.stale_seconds:.0f} s: figures and states are old"
        return _wrapped(text, width, "bold red")
    return [
        Text(shortened(printable(_line(one)), width), style=_SEVERITIES[one.severity])
        for one in fleet.host_attention[:_MESSAGE_LINES]
    ]


def _line(attention: Attention) -> str:
    return f"{attention.text}: {attention.do}"


def _table(top: Top, width: int, room: int, columns: tuple[str, ...]) -> list[Text]:
    """Return the header and the rows around the selected one; `room` is in lines."""
    rows = top.rows()
    if not rows:
        return [Text(_empty(top), style="dim")] if top.fleet.loaded and not top.fleet.error else []
    place = top.place()
    keep = {top.sort} & _SORT_COLUMNS
    shown = lines([one.row for one in rows], width, columns, keep=keep, dropped=_DROPPED)
    visible = max(1, room - 1)
    first = max(0, min(place - visible // 2, len(rows) - visible))
    table = [Text(shown[0], style="bold", no_wrap=True)]
    grey = top.fleet.stale_seconds is not None
    for index in range(first, min(first + visible, len(rows))):
        style = "dim" if grey else _style(rows[index])
        line = Text(shown[index + 1], style=style, no_wrap=True)
        if index == place:
            line.pad_right(max(0, width - line.cell_len))
            line.stylize("reverse")
        table.append(line)
    return table


def _style(account: TopAccount) -> str:
    severity = account.row.severity
    if severity is not None:
        return _SEVERITIES[severity]
    return _STATES.get(account.row.cells.get("state", ""), "dim")


def _empty(top: Top) -> str:
    if top.filter or top.typing:
        return "no account matches the filter; Escape removes it"
    if top.everything:
        return "no accounts"
    return "no workers; the key a shows every account, and s starts the selected one"


def _foot(top: Top, width: int, *, details: bool) -> list[Text]:
    found = _details(top, width) if details else []
    return [*found, *_message(top, width), _keys(top, width)]


def _details(top: Top, width: int) -> list[Text]:
    """Return two lines about the selected account: what to look at, and what to do."""
    account = top.account(top.selected)
    if account is None or top.fleet.stale_seconds is not None:
        return [Text(""), Text("")]
    if not account.row.found:
        text = account.row.cells.get("attention", "")
        about = f"{account.account_id}: {text or 'nothing needs attention'}"
        return [Text(shortened(printable(about), width), style="dim"), Text("")]
    one = account.row.found[0]
    since = f", since {one.since:%H:%M:%S} UTC" if one.since is not None else ""
    about = f"{account.account_id}: {one.code}{since}: {' '.join(one.text.split())}"
    return [
        Text(shortened(printable(about), width), style=_SEVERITIES[one.severity]),
        Text(shortened(printable(one.do), width)),
    ]


def _message(top: Top, width: int) -> list[Text]:
    """Return the question, the filter that is being typed, or the outcome of the last command."""
    if top.question is not None:
        text = question_text(top.question, top.account(top.question.account_id))
        return _wrapped(text, width, "bold black on yellow")
    if top.typing is not None:
        return [Text(f"filter: {printable(top.typing)}_"[-width:], style="bold")]
    if top.status:
        return _wrapped(top.status, width, "bold red" if top.failed else "green")
    return [Text("")]


def _keys(top: Top, width: int) -> Text:
    """Return the line of keys; those that do not fit are left out."""
    text = ""
    for key in _KEYS if top.commands else _READ_ONLY_KEYS:
        longer = f"{text}  {key}" if text else key
        if len(longer) > width:
            break
        text = longer
    return Text(text, style="dim")


def _help(width: int) -> list[Text]:
    left = max(len(key) for key, _ in _HELP) + 2
    return [Text(shortened(f"{key:<{left}}{text}".rstrip(), width)) for key, text in _HELP]


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    room = width * _MESSAGE_LINES - 8
    found = textwrap.wrap(shortened(" ".join(printable(text).split()), room), width)[:_MESSAGE_LINES]
    return [Text(line, style=style) for line in found]
