"""Command `rollout`: bring a change to many accounts in steps."""

import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import click

from manager.cli.common import (
    account_argument,
    json_option,
    print_json,
    say,
    selected,
    selection_options,
    service,
    settings,
)
from manager.cli.suggestions import Commands
from manager.system.text import counted, printable

if TYPE_CHECKING:
    from manager.change.rollout_planning import RolloutRecord
    from manager.change.rollouts import Aim, Rollout
    from manager.client.rollouts import FleetRollouts

#: Seconds between two looks with `--watch`.
_POLL_SECONDS = 2.0
#: Accounts of one state that are listed.
_SHOWN = 8


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from manager.market.parsing import parse_duration

        try:
            found: timedelta = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return found.total_seconds()


_DURATION = _Duration()


@click.group(cls=Commands)
def rollout() -> None:
    """Bring changed files or new software to many accounts in steps.

    A rollout restarts accounts, a few canaries first, and never lets more of them be unavailable than
    allowed.
    """


@rollout.command()
@account_argument(nargs=-1)
@selection_options
@click.option(
    "--to",
    "aim",
    type=click.Choice(["config", "software", "both"]),
    default="both",
    help="What it brings: changed files, the software of the hosts. [default: both]",
)
@click.option(
    "--max-unavailable",
    metavar="N|N%",
    default="5%",
    help="Accounts that may be unavailable at once. [default: 5%]",
)
@click.option(
    "--canary", metavar="N", type=click.IntRange(0), default=1, help="Accounts that go first. [default: 1]"
)
@click.option("--bake", metavar="TIME", type=_DURATION, default="5m", help="Wait after them. [default: 5m]")
@click.option(
    "--promote",
    type=click.Choice(["auto", "manual"]),
    default="auto",
    help="Whether the others begin by themselves. [default: auto]",
)
@click.option(
    "--min-healthy", metavar="TIME", type=_DURATION, default="60s", help="Healthy for so long. [default: 60s]"
)
@click.option(
    "--healthy-deadline", metavar="TIME", type=_DURATION, default="5m", help="Healthy by then. [default: 5m]"
)
@click.option(
    "--max-failures",
    metavar="N",
    type=click.IntRange(0),
    default=1,
    help="Failures it tolerates. [default: 1]",
)
@click.option(
    "--on-failure",
    type=click.Choice(["pause", "cancel"]),
    default="pause",
    help="What more failures do. [default: pause]",
)
@click.option(
    "--when-flat/--at-once",
    default=True,
    help="Whether accounts wait until they have no open position. [default: when-flat]",
)
@click.option(
    "--flat-deadline", metavar="TIME", type=_DURATION, help="Longest such wait. [default: for ever]"
)
@click.option(
    "--on-deadline",
    type=click.Choice(["skip", "force"]),
    default="skip",
    help="What happens then. [default: skip]",
)
@click.option(
    "--window",
    metavar="TEXT",
    default="",
    help="When restarts may begin: `sat 00:00-12:00 UTC`. [default: always]",
)
@click.option(
    "--per-host",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    help="Restarts on one host at once. [default: 1]",
)
@click.option("--force", is_flag=True, help="Also if another rollout has an account. [default: no]")
@click.option("--dry-run", is_flag=True, help="Show the sequence and restart nothing. [default: no]")
@json_option
def start(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    aim: str,
    max_unavailable: str,
    window: str,
    promote: str,
    force: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Start a rollout over ACCOUNTs, over --group and -l, or over all accounts.

    Accounts that do not run are skipped; those that run the change already are left alone.
    """
    from manager.change.rollouts import RolloutOptions
    from manager.errors import AccountNotFoundError

    accounts = service().select(selected(account_ids, groups, labels))
    unknown = [one for one in account_ids if one not in accounts]
    if unknown:
        raise AccountNotFoundError(f"{unknown[0]}: no such account: `manager validate` lists the files")
    if account_ids:
        accounts = {one: accounts[one] for one in account_ids}
    given = RolloutOptions(promote_manually=promote == "manual", **options)
    fleet = _rollouts()
    record = fleet.plan(accounts, cast("Aim", aim), given, max_unavailable=max_unavailable, window=window)
    if not dry_run:
        record = fleet.start(record, force=force)
    if as_json:
        print_json(as_dict(record))
        return 0
    _print(record)
    if not dry_run:
        say(f"`manager rollout show {record.rollout.id} --watch` follows it")
    return 0


@rollout.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List the newest rollouts."""
    found = _rollouts().list()
    if as_json:
        print_json([asdict(one) for one in found])
        return 0
    for one in found:
        say(_head(one))
    if not found:
        say("no rollout yet: `manager rollout start` begins one")
    return 0


@rollout.command()
@click.argument("rollout_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Show it until it is done, paused or cancelled. [default: no]")
@json_option
def show(rollout_id: str, watch: bool, as_json: bool) -> int:
    """Show a rollout and its accounts. Exit code 1 if it is paused, cancelled, or has failures."""
    from manager.change.rollouts import MemberState, RolloutState

    fleet = _rollouts()
    before = ""
    while True:
        record = fleet.get(rollout_id)
        over = record.rollout.state is not RolloutState.RUNNING
        if as_json and (over or not watch):
            print_json(as_dict(record))
        elif not as_json:
            text = _text(record)
            if text != before:
                say(text)
            before = text
        if over or not watch:
            break
        time.sleep(_POLL_SECONDS)
    failed = any(one.state is MemberState.FAILED for one in record.members.values())
    return int(failed or record.rollout.state in (RolloutState.PAUSED, RolloutState.CANCELLED))


def _steer(name: str, text: str) -> click.Command:
    @click.argument("rollout_id", metavar="ID")
    @json_option
    def command(rollout_id: str, as_json: bool) -> int:
        found: Rollout = getattr(_rollouts(), name)(rollout_id)
        if as_json:
            print_json(asdict(found))
        else:
            say(_head(found))
        return 0

    command.__doc__ = text
    return click.command(name)(command)


for _name, _help in (
    ("pause", "Begin no further restart; those under way settle."),
    ("resume", "Let a paused rollout go on, whatever has failed so far."),
    ("promote", "End the canary phase: the other accounts may begin."),
    ("cancel", "End a rollout; restarts under way finish."),
):
    rollout.add_command(_steer(_name, _help))


def as_dict(record: "RolloutRecord") -> dict[str, Any]:
    """Return the JSON form of a rollout with its members."""
    return {
        "rollout": asdict(record.rollout),
        "members": {key: asdict(one) for key, one in sorted(record.members.items())},
    }


def _rollouts() -> "FleetRollouts":
    from manager.factory import fleet_rollouts

    return fleet_rollouts(settings())


def _head(one: "Rollout") -> str:
    when = datetime.fromtimestamp(one.started, UTC)
    phase = "" if one.promoted or not one.active else ", canaries first"
    why = f": {printable(one.why)}" if one.why else ""
    return f"{one.id}  {when:%Y-%m-%d %H:%M} UTC  to {one.aim}  {one.state}{phase}{why}"


def _print(record: "RolloutRecord") -> None:
    say(_text(record))


def _text(record: "RolloutRecord") -> str:
    from manager.change.rollouts import MemberState

    options, members = record.rollout.options, record.members
    lines = [
        _head(record.rollout),
        f"  at most {counted(options.max_unavailable, 'account')} unavailable, {options.per_host} of a host",
    ]
    counts = Counter(one.state for one in members.values())
    for state in MemberState:
        if not counts[state]:
            continue
        names = sorted(
            (key for key, one in members.items() if one.state is state), key=lambda key: members[key].order
        )
        texts = [_member(key, record) for key in names[:_SHOWN]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {state:<11} {counts[state]:>4}  {', '.join(texts)}{more}")
    return "\n".join(lines)


def _member(key: str, record: "RolloutRecord") -> str:
    member = record.members[key]
    canary = " (canary)" if member.canary else ""
    return f"{key}{canary}" + (f": {printable(member.why)}" if member.why else "")


COMMANDS = (rollout,)
