"""Command `schedule`: windows of accounts, and overrides."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import account_argument, json_option, print_error, print_json, say, settings
from manager.cli.suggestions import Commands
from manager.system.text import counted

if TYPE_CHECKING:
    from manager.client.schedules import AccountSchedule, FleetSchedules
    from manager.market.decisions import Override
    from manager.market.listing import ListedWindow
    from manager.market.schedules import Timetable
    from manager.models import WorkerInfo
    from manager.service import WorkerManagerService

#: Seconds between two reads of a worker that an override stops, and the longest wait beyond its stop timeout.
_POLL_SECONDS = 0.2
_EXTRA_SECONDS = 10.0

_UNTIL_FORMS = (
    "next (the schedule's next change), a duration (90m), a time (17:30), or a date and a time. Times are on "
    "the schedule's clock."
)
until_option = click.option(
    "--until", metavar="next|TIME", help=f"When the override ends: {_UNTIL_FORMS} [default: next]"
)
stop_until_option = click.option(
    "--until",
    metavar="next|TIME",
    help=f"When the accounts start again: {_UNTIL_FORMS} [default: when a command starts them]",
)


@click.group(cls=Commands)
def schedule() -> None:
    """Show what accounts do by their schedules, and override them."""


def fleet_schedules() -> "FleetSchedules":
    """Return the schedules of this machine's settings."""
    from manager.factory import fleet_schedules as build

    return build(settings())


@schedule.command()
@account_argument()
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=14,
    metavar="N",
    help="Show the windows of the next N days. [default: 14]",
)
@click.option("--utc", is_flag=True, help="Show times in UTC. [default: on the schedule's clock]")
@json_option
def show(account_id: str, days: int, utc: bool, as_json: bool) -> int:
    """Show an account's windows, and what it does now."""
    from manager.market.listing import list_windows

    found = fleet_schedules().get(account_id)
    now = datetime.now(UTC)
    timetable = found.timetable
    listed = [] if timetable is None else list(list_windows(timetable, now, now + timedelta(days=days)))
    if as_json:
        print_json({**_as_dict(found), "windows": [_window(one) for one in listed]})
        return 0
    say(f"{account_id} {found.decision.text}")
    if timetable is None:
        say(f"{account_id} has no schedule: it runs always; `schedule:` in its file sets one")
        return 0
    _print_windows(timetable, listed, days, utc)
    return 0


def _print_windows(timetable: "Timetable", listed: "list[ListedWindow]", days: int, utc: bool) -> None:
    clock = "UTC" if utc else timetable.schedule.display_clock.label
    if not listed:
        say(f"no window within {counted(days, 'day')}")
        return
    say(f"windows of the next {counted(days, 'day')}, {clock}:")
    for one in listed:
        opens, closes = (one.window.opens, one.window.closes) if utc else (one.opens_wall, one.closes_wall)
        for mark in one.marks:
            say(f"  ({mark})")
        say(f"  {_moment(opens)} to {_moment(closes)}  {_hours(one.window.lasts)}")


@schedule.command("next")
@json_option
def next_changes(as_json: bool) -> int:
    """List the accounts with a schedule, the next change first."""
    found = fleet_schedules().all()
    if as_json:
        print_json([_as_dict(one) for one in found])
    elif not found:
        say("no account has a schedule; `schedule:` in an account file sets one")
    for one in found if not as_json else ():
        say(f"{one.account_id} {one.decision.text}")
    return 0


@schedule.command()
@account_argument(nargs=-1, required=True)
@click.argument("do", metavar="run|rest|clear", type=click.Choice(["run", "rest", "clear"]))
@until_option
@click.option("--reason", metavar="TEXT", default="", help="Why; shown with the override. [default: none]")
@json_option
def override(account_ids: tuple[str, ...], do: str, until: str | None, reason: str, as_json: bool) -> int:
    """Let accounts run or rest until a time, against their schedule.

    `clear` ends an override. Their hosts follow within two seconds. [default of --until: next]
    """
    fleet = fleet_schedules()

    def one(account_id: str) -> "Override | None":
        if do == "clear":
            fleet.clear(account_id)
            return None
        return fleet.override(
            account_id, "run" if do == "run" else "rest", until=until or "next", reason=reason
        )

    return _each(account_ids, one, as_json)


def start_now(until: str | None, start: "Callable[[str], WorkerInfo]") -> "Callable[[str], WorkerInfo]":
    """Return a start of an account that overrides its schedule first."""
    schedules = fleet_schedules()

    def one(account_id: str) -> "WorkerInfo":
        schedules.run_now(account_id, until=until or "next", reason="start --now")
        return start(account_id)

    return one


def rest_until(fleet: "WorkerManagerService", account_id: str, until: str) -> dict[str, Any]:
    """Let an account rest until a time; return once it has no worker.

    Raises StopFailedError if its worker still runs after its stop timeout.
    """
    from manager.errors import StopFailedError
    from manager.states import SETTLED

    schedules = fleet_schedules()
    found = schedules.override(account_id, "rest", until=until, reason="stop --until")
    deadline = time.monotonic() + _stop_seconds(account_id) + _EXTRA_SECONDS
    while True:
        info = fleet.get_worker_info(account_id)
        if info is None or info.status in SETTLED:
            break
        if time.monotonic() >= deadline:
            raise StopFailedError(
                f"{account_id}: its override is recorded, but its worker still runs on host "
                f"{info.placement.host}: `manager doctor` checks the host; `manager stop {account_id}` "
                "stops it until a start command"
            )
        time.sleep(_POLL_SECONDS)
    text = schedules.get(account_id).decision.text
    return {"account_id": account_id, "until": found.until.isoformat(), "text": text}


def _stop_seconds(account_id: str) -> float:
    from manager.cli.common import configuration

    return configuration().load_account_config(account_id).stop_seconds()


def _each(account_ids: tuple[str, ...], one: "Callable[[str], Override | None]", as_json: bool) -> int:
    from manager.errors import ManagerError

    answers: list[dict[str, Any]] = []
    failed = False
    for account_id in account_ids:
        try:
            found = one(account_id)
        except ManagerError as error:
            failed = True
            answers.append({"account_id": account_id, "error": {"code": error.code, "message": str(error)}})
            if not as_json:
                print_error(str(error))
            continue
        answers.append({"account_id": account_id, "override": _override(found)})
        if not as_json and found is None:
            say(f"{account_id}: override cleared; its schedule is in force again")
        elif not as_json and found is not None:
            say(f"{account_id}: {found.kind} until {found.until:%Y-%m-%d %H:%M} UTC ({found})")
    if as_json:
        print_json(answers)
    return int(failed)


def _as_dict(found: "AccountSchedule") -> dict[str, Any]:
    decision, timetable = found.decision, found.timetable
    return {
        "account_id": found.account_id,
        "schedule": None if timetable is None else timetable.schedule.name or "its own",
        "action": str(decision.action),
        "until": None if decision.until is None else decision.until.isoformat(),
        "since": None if decision.since is None else decision.since.isoformat(),
        "text": decision.text,
        "override": _override(found.override),
    }


def _override(found: "Override | None") -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "do": str(found.kind),
        "at": found.at.isoformat(),
        "until": found.until.isoformat(),
        "by": found.by,
        "reason": found.reason,
    }


def _window(one: "ListedWindow") -> dict[str, Any]:
    return {
        "opens": one.window.opens.isoformat(),
        "closes": one.window.closes.isoformat(),
        "opens_wall": one.opens_wall.isoformat(),
        "closes_wall": one.closes_wall.isoformat(),
        "marks": list(one.marks),
    }


def _moment(moment: datetime) -> str:
    seconds = f":{moment:%S}" if moment.second else ""
    return f"{moment:%a} {moment.day:>2} {moment:%b %Y %H:%M}{seconds}"


def _hours(lasts: timedelta) -> str:
    hours, minutes = divmod(int(lasts.total_seconds()) // 60, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    return " ".join(parts)


COMMANDS = (schedule,)
