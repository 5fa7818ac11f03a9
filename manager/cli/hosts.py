"""Commands `hosts`, `drain`, `resume-host`, `forget-host` and `place`."""

import time
from typing import TYPE_CHECKING, Any

import click

from manager.cli.common import (
    account_argument,
    complete_hosts,
    json_option,
    print_error,
    print_json,
    print_warning,
    say,
    settings,
)
from manager.system.text import counted, printable
from manager.versions import __version__, apart

if TYPE_CHECKING:
    from manager.client.hosts import DrainProgress, FleetHosts
    from manager.fleet import HostState
    from manager.fleet.host_report import HostReport

#: Seconds between reads of a drain's progress, and the number of reads after which a stuck drain ends the
#: wait.
_POLL_SECONDS = 0.5
_STUCK_POLLS = 12
#: Seconds of clock difference that cause a warning.
_SKEW_SECONDS = 2.0


def _hosts() -> "FleetHosts":
    from manager.factory import fleet_hosts

    return fleet_hosts(settings())


@click.command()
@json_option
def hosts(as_json: bool) -> int:
    """List the hosts: state, version, labels, workers, capacity, clock."""
    found = _hosts().list()
    if as_json:
        print_json([host.to_dict() for host in found])
        return 0
    if not found:
        say("no hosts; `manager up` or `manager host` starts this machine's host agent")
        return 0
    from rich.console import Console
    from rich.table import Table

    from manager.terminal.tables import plain

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("host", "state", "seen", "version", "labels"):
        table.add_column(name, no_wrap=name != "labels")
    for name in ("workers", "capacity", "memory free", "load", "clock"):
        table.add_column(name, justify="right", no_wrap=True)
    for host in found:
        table.add_row(*map(plain, _row(host)), style="" if host.live else "red")
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(table)
    for host in found:
        if host.live and abs(host.clock_skew_seconds or 0.0) > _SKEW_SECONDS:
            print_warning(
                f"host {host.name}: its clock differs from Redis's clock by {host.clock_skew_seconds:g} s: "
                "run NTP on that machine"
            )
        if host.live and not host.facts.compatible:
            print_warning(
                f"host {host.name}: {apart(host.facts.version, __version__)}: it accepts only stops from "
                "this manager. Upgrade the older one"
            )
        if trouble := host.report.trouble:
            print_warning(f"host {host.name}: {trouble}")
    return 0


def _row(host: "HostState") -> list[str]:
    from manager.placement.labels import show_labels

    report = host.report
    facts = host.facts
    skew = host.clock_skew_seconds
    return [
        host.name,
        host.state,
        "" if host.age_seconds is None else f"{host.age_seconds:.0f}s ago",
        report.version or "",
        show_labels(facts.labels),
        _workers(report),
        str(facts.capacity or (f"({facts.size})" if report.memory_mb else "")),
        f"{facts.available_mb / 1024:.1f} of {facts.memory_mb / 1024:.1f} GB" if report.memory_mb else "",
        "" if report.load is None else str(report.load),
        "" if skew is None else f"{skew:+.1f}s",
    ]


def _workers(report: "HostReport") -> str:
    """Return how many workers have a process, and how many have failed."""
    failed = (report.states or {}).get("failed")
    workers = "" if report.workers is None else str(report.workers)
    return workers + (f" (+{failed} failed)" if failed else "")


@click.command()
@click.argument("host", shell_complete=complete_hosts)
@click.option(
    "--stop", "stop", is_flag=True, help="Stop the workers until `resume-host`, instead of moving them."
)
@click.option(
    "--when-flat",
    is_flag=True,
    help="Let a worker with open positions run until it has none, or until the deadline.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --when-flat: after this time the other workers move or stop too, as their "
    "`execution.open_positions` says. [default: no limit]",
)
@click.option(
    "--wait", is_flag=True, help="Return when the host is empty; exit with 1 if it cannot be emptied."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: the longest wait. [default: no limit]",
)
@json_option
def drain(
    host: str,
    stop: bool,
    when_flat: bool,
    deadline: float | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Take a host out of service; its workers move to other hosts.

    No new worker starts on the host until `manager resume-host`.
    """
    if deadline is not None and not when_flat:
        raise click.UsageError("--deadline needs --when-flat: without it all workers move or stop at once")
    fleet = _hosts()
    state = fleet.drain(host, mode="stop" if stop else "move", when_flat=when_flat, deadline_seconds=deadline)
    if not state.live:
        print_warning(
            f"host {host} is {state.state}: the drain begins when its host agent reports again. Until then "
            "its workers continue"
        )
    if not wait:
        if as_json:
            print_json(state.to_dict())
        else:
            say(
                f"{host}: drain started, {counted(state.workers, 'worker')} to {'stop' if stop else 'move'}; "
                "`manager hosts` shows how many are left"
            )
        return 0
    progress = _wait_empty(fleet, host, timeout, quiet=as_json)
    if as_json:
        print_json({**progress.host.to_dict(), "done": progress.done, "why": progress.why})
    elif progress.done:
        say(f"{host} is empty; `manager resume-host {host}` puts it into service again")
    else:
        left = max(progress.workers, progress.staying)
        print_error(f"{host} still has {counted(left, 'account')}: `manager drain {host} --stop` stops them")
    return int(not progress.done)


def _wait_empty(fleet: "FleetHosts", host: str, timeout: float | None, *, quiet: bool) -> "DrainProgress":
    ends = None if timeout is None else time.monotonic() + timeout
    stuck, printed = 0, ""
    while True:
        time.sleep(_POLL_SECONDS)  # the agent's last report may be older than the drain
        progress = fleet.drain_progress(host)
        now = f"{host}: {counted(progress.workers, 'worker')} left"
        now += "".join(f"\n  {account_id}: {why}" for account_id, why in progress.why.items())
        if not quiet and now != printed:
            click.echo(printable(now), err=True)
            printed = now
        reported = progress.host.report.drain is not None
        stuck = stuck + 1 if progress.stuck else 0
        if (progress.done and reported) or stuck >= _STUCK_POLLS:
            return progress
        if ends is not None and time.monotonic() >= ends:
            return progress


@click.command("resume-host")
@click.argument("host", shell_complete=complete_hosts)
@json_option
def resume_host(host: str, as_json: bool) -> int:
    """Let a drained host run workers again.

    Workers that the drain stopped start again.
    """
    state = _hosts().resume(host)
    if as_json:
        print_json(state.to_dict())
    else:
        say(f"{host} is in service again")
    return 0


@click.command("forget-host")
@click.argument("host", shell_complete=complete_hosts)
@json_option
def forget_host(host: str, as_json: bool) -> int:
    """Remove a host that no longer exists from `manager hosts`."""
    _hosts().forget(host)
    if as_json:
        print_json({"name": host, "forgotten": True})
        return 0
    say(f"{host} is removed; if its host agent starts again, the host is listed again")
    return 0


@click.command()
@account_argument()
@click.option(
    "--explain", is_flag=True, help="Show for every host whether it fits, and which rule rejects it."
)
@json_option
def place(account_id: str, explain: bool, as_json: bool) -> int:
    """Show on which host an account would start now; start nothing."""
    from manager.cli.common import configuration

    config = configuration().load_account_config(account_id)
    placement, view = _hosts().place(config.needs())
    if as_json:
        answer: dict[str, Any] = {
            "account_id": account_id,
            "host": placement.host,
            "reason": placement.reason,
            "refused": dict(placement.refused),
        }
        print_json(answer)
        return int(placement.host is None)
    (click.echo if placement.host is not None else print_error)(placement.explain())
    if explain:
        for name in sorted(view.hosts):
            why = placement.refused.get(name)
            used = f"{view.count(name)} of {view.hosts[name].size} places in use"
            say(f"  {name}: {'fits, ' + used if why is None else 'rejected: ' + why}")
        for name in sorted(set(placement.refused) - set(view.hosts)):
            say(f"  {name}: rejected: {placement.refused[name]}")
    return int(placement.host is None)


COMMANDS = (hosts, drain, resume_host, forget_host, place)
