"""Checks of hosts' clocks: offset from Redis's, suspends, jumps."""

from collections.abc import Iterator, Sequence
from typing import Final

from manager.doctor.check import Check
from manager.fleet import HostState
from manager.market.clocks import tz_database_version

#: Seconds of clock difference from which the logs of two hosts can no longer be compared.
SKEW_SECONDS: Final = 2.0
#: Seconds of clock difference from which commands may expire before they arrive: a task is valid for one day.
_EXPIRES_SECONDS: Final = 3_600.0
#: Seconds for which a change of a host's clock is reported.
_RECENT_SECONDS: Final = 86_400.0


def skew_text(seconds: float) -> str:
    """Return the difference as text, such as `7200.0 s ahead of`."""
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"


def host_clocks(hosts: Sequence[HostState]) -> Iterator[Check]:
    """Compare the clock of each live host with Redis's clock.

    Yields a finding for each host that differs, and one for all the others.
    """
    known = [(host.name, host.clock_skew_seconds) for host in hosts if host.live]
    well: list[float] = []
    for name, skew in known:
        if skew is None:
            continue
        if abs(skew) <= SKEW_SECONDS:
            well.append(abs(skew))
            continue
        far = abs(skew) >= _EXPIRES_SECONDS
        effect = "its commands expire too early or too late" if far else "times in logs differ"
        yield Check(
            code="clock",
            outcome="failure" if far else "warning",
            where=f"host {name}",
            found=f"{name}: its clock is {skew_text(skew)} Redis's clock: {effect}",
            advice=f"set the clock of {name} and run NTP there",
        )
    if well:
        found = (
            f"the clocks of {len(well)} of {len(known)} live hosts differ from Redis's clock by at most "
            f"{max(well) * 1000:.0f} ms"
        )
        yield Check(code="clock", outcome="ok", where="hosts", found=found)


def time_zones(hosts: Sequence[HostState]) -> Iterator[Check]:
    """Compare the time zone rules of the live hosts and of this machine.

    Hosts with different rules disagree about when a schedule opens.
    """
    versions: dict[str, list[str]] = {tz_database_version(): ["this machine"]}
    for host in hosts:
        version = host.report.tzdata
        if host.live and version:
            versions.setdefault(version, []).append(host.name)
    newest = max(versions)
    if len(versions) == 1:
        found = f"this machine and all live hosts have the time zone rules {newest}"
        yield Check(code="time_zones", outcome="ok", where="hosts", found=found)
    for version in sorted(versions.keys() - {newest}):
        names = ", ".join(versions[version])
        yield Check(
            code="time_zones",
            outcome="warning",
            where=names,
            found=f"{names}: time zone rules {version}, elsewhere {newest}: schedules may open and close at "
            "different times",
            advice=f"run `pip install --upgrade tzdata` there and restart the agent: {names}",
        )


def clock_changes(hosts: Sequence[HostState]) -> Iterator[Check]:
    """Name each live host that was suspended or whose clock was set today.

    Covers the last 24 hours.
    """
    for host in hosts:
        change = host.report.clock_change
        if not host.live or change is None:
            continue
        age = change.age_seconds
        if age is None or age > _RECENT_SECONDS:
            continue
        yield Check(
            code="clock_change",
            outcome="warning",
            where=f"host {host.name}",
            found=f"{host.name}: {change.text} ({_ago(age)} ago)",
            advice="check the open positions of the accounts on that host. Turn off suspend on a machine "
            "that trades, and let NTP slew its clock",
        )


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
