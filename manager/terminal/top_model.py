"""The model of `manager top`: accounts, sort order, filter, selection, and what a key does.

Pure: reads no terminal, no clock and no Redis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from manager.placement.labels import Selection
from manager.states import SETTLED, TradingMode
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountFile, AccountRow, FleetListing
from manager.terminal.listing import Row, make_rows, sort_rows

#: Sort orders, in the order in which the key `o` goes through them.
TOP_SORTS: Final = ("attention", "account", "state", "equity", "memory", "cpu")
#: Rows that `page up` and `page down` move.
_PAGE: Final = 10

CommandName = Literal["start", "stop", "restart", "pause", "resume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopAccount:
    """One account as `top` shows it."""

    row: Row
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Open positions; None if the worker does not report them.
    positions: int | None = None
    paused: bool = False
    #: Whether it has a worker, running or ended.
    recorded: bool = True
    #: Whether its worker may have a session.
    live: bool = False

    @property
    def account_id(self) -> str:
        return self.row.cells["account"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopFleet:
    """The fleet at one moment."""

    accounts: Sequence[TopAccount] = ()
    host_attention: Sequence[Attention] = ()
    #: Seconds since Redis became unreachable; None while it is reachable.
    stale_seconds: float | None = None
    #: Why the fleet could not be read at all; empty otherwise.
    error: str = ""
    #: Whether the fleet has been read.
    loaded: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a person confirmed."""

    name: CommandName
    account_id: str


Scope = Callable[[TopAccount], bool]


def top_fleet(listing: FleetListing) -> TopFleet:
    """Return a listing of the live view as `top` shows it."""
    workers = [one.worker for one in listing.accounts.values() if one.worker is not None]
    has_files = any(one.file is not None for one in listing.accounts.values())
    others = {one.account_id: other for one in listing.accounts.values() if (other := _other(one, has_files))}
    attention = {one.account_id: listing.attention(one) for one in listing.accounts.values()}
    rows = make_rows(workers, others, listing.as_of, attention)
    accounts = [_account(row, listing.accounts[row.cells["account"]]) for row in rows]
    return TopFleet(
        accounts=accounts, host_attention=listing.host_attention(), stale_seconds=listing.stale_seconds
    )


def _other(account: AccountRow, has_files: bool) -> tuple[str, str] | None:
    """Return state and reason of an account that cannot or did not start; None for any other."""
    file: AccountFile | None = account.file
    if file is None and has_files:
        verb = "forget" if account.worker is None or account.worker.status in SETTLED else "stop"
        return "file gone", f"its account file is missing: restore it, or run `manager {verb}`"
    if file is not None and file.enabled is None:
        return "invalid", f"its account file cannot be read: `manager validate {account.account_id}`"
    if file is not None and not file.enabled:
        return "disabled", "enabled: false"
    return ("never started", "") if account.worker is None else None


def _account(row: Row, account: AccountRow) -> TopAccount:
    worker = account.worker
    return TopAccount(
        row=row,
        groups=account.groups,
        labels=account.labels,
        positions=None if worker is None else worker.metrics.open_positions,
        paused=worker is not None and worker.trading_mode is TradingMode.PAUSED,
        recorded=worker is not None,
        live=worker is not None and worker.status not in SETTLED,
    )


def filter_scope(text: str) -> Scope:
    """Return the test that a filter makes.

    All words of a filter must match. `group:NAME` and `label:KEY[=VALUE]` match exactly, `state:STATE`
    matches the beginning of the state. Any other word matches, in any case, a part of the account's line or
    of a group's name.
    """
    tests: list[Scope] = [_word(word) for word in text.split()]
    return lambda account: all(test(account) for test in tests)


def _word(word: str) -> Scope:
    kind, colon, value = word.partition(":")
    if colon and value and kind in ("group", "label"):
        selection = Selection((value,)) if kind == "group" else Selection((), (value,))
        return lambda account: selection.matches(account.groups, account.labels)
    if colon and value and kind == "state":
        return lambda account: account.row.cells.get("state", "").startswith(value)
    part = word.casefold()
    return lambda account: any(
        part in cell.casefold() for cell in (*account.row.cells.values(), *account.groups)
    )


class Top:
    """What `top` shows. Not thread-safe."""

    def __init__(
        self,
        *,
        sort: str = "attention",
        scope: Scope = lambda account: True,
        everything: bool = False,
        commands: bool = True,
    ) -> None:
        """Create the model.

        `scope` limits the accounts permanently. `everything` includes accounts that never had a worker.
        Without `commands` no key sends a command.
        """
        self.fleet = TopFleet(loaded=False)
        self.sort = sort
        self.filter = ""
        self.everything = everything
        self.commands = commands
        #: The account that keys act on; it stays selected while rows move.
        self.selected: str | None = None
        #: A command that waits for y or n.
        self.question: Command | None = None
        #: The filter that the user is typing; None at other times.
        self.typing: str | None = None
        self.help = False
        self.quit = False
        #: The outcome of the last command or key, and whether it is an error.
        self.status = ""
        self.failed = False
        self._scope = scope
        self._rows: list[TopAccount] | None = None

    def take(self, fleet: TopFleet) -> None:
        """Show this state of the fleet."""
        self.fleet = fleet
        self._rows = None

    def say(self, text: str, *, failed: bool = False) -> None:
        """Show a line of status."""
        self.status, self.failed = text, failed

    def rows(self) -> list[TopAccount]:
        """Return the accounts that the filter leaves, in the sort order."""
        if self._rows is None:
            matches = filter_scope(self.filter if self.typing is None else self.typing)
            found = {
                one.account_id: one
                for one in self.fleet.accounts
                if (self.everything or one.recorded or one.row.found) and self._scope(one) and matches(one)
            }
            ordered = sort_rows([one.row for one in found.values()], self.sort)
            self._rows = [found[row.cells["account"]] for row in ordered]
        return self._rows

    def place(self) -> int:
        """Return the index of the selected account among the rows; selects the first one if it is gone."""
        rows = self.rows()
        for place, one in enumerate(rows):
            if one.account_id == self.selected:
                return place
        if self.question is None:
            self.selected = rows[0].account_id if rows else None
        return 0

    def account(self, account_id: str | None) -> TopAccount | None:
        """Return an account of the fleet, whether it is shown or not."""
        return next((one for one in self.fleet.accounts if one.account_id == account_id), None)

    # keys

    def press(self, keys: Iterable[str]) -> list[Command]:
        """Handle the keys of one read; return the commands that they confirm.

        Keys that arrive together with the key that asks a question do not answer it, so that pasted text
        never confirms a command.
        """
        confirmed: list[Command] = []
        for key in keys:
            asked = self.question
            if asked is not None:
                self.question = None
                if key in ("y", "Y"):
                    confirmed.append(asked)
                else:
                    self.say(f"{asked.name} {asked.account_id}: cancelled")
                continue
            self._press(key)
            if self.question is not None:
                break
        return confirmed

    def _press(self, key: str) -> None:
        if self.typing is not None:
            self._type(key)
        elif self.help:
            self.help = False
        elif key in _MOVES:
            self._move(_MOVES[key])
        elif key == "q":
            self.quit = True
        elif key == "?":
            self.help = True
        elif key == "/":
            self.typing = self.filter
        elif key == "escape":
            self.filter, self._rows = "", None
        elif key == "o":
            place = TOP_SORTS.index(self.sort) + 1 if self.sort in TOP_SORTS else 0
            self.sort, self._rows = TOP_SORTS[place % len(TOP_SORTS)], None
        elif key == "a":
            self.everything, self._rows = not self.everything, None
        elif key in ("s", "x", "r", "p"):
            self._ask(key)

    def _ask(self, key: str) -> None:
        self.place()
        account = self.account(self.selected)
        if not self.commands:
            self.say("this list sends no commands; use `manager top`")
        elif account is None:
            self.say("no account is selected")
        else:
            mode: CommandName = "resume" if account.paused else "pause"
            names: dict[str, CommandName] = {"s": "start", "x": "stop", "r": "restart", "p": mode}
            self.say("")
            self.question = Command(names[key], account.account_id)

    def _type(self, key: str) -> None:
        assert self.typing is not None
        if key == "enter":
            self.filter, self.typing = self.typing.strip(), None
        elif key == "escape":
            self.typing = None
        elif key == "backspace":
            self.typing = self.typing[:-1]
        elif len(key) == 1:
            self.typing += key
        self._rows = None

    def _move(self, rows: int) -> None:
        found = self.rows()
        if found:
            place = min(max(self.place() + rows, 0), len(found) - 1)
            self.selected = found[place].account_id


_MOVES: Final = {
    **{"up": -1, "k": -1, "down": 1, "j": 1, "page up": -_PAGE, "page down": _PAGE},
    **{"home": -(10**9), "end": 10**9},
}


def question_text(command: Command, account: TopAccount | None) -> str:
    """Return the question that confirms a command, with the account and its open positions."""
    positions = None if account is None else account.positions
    if account is None or not account.live:
        held = ", which has no running worker"
    elif positions is None:
        held = ", whose open positions are not known"
    else:
        held = f", which has {positions or 'no'} open position{'' if positions == 1 else 's'}"
    return f"{command.name} {command.account_id}{held}? y/n"
