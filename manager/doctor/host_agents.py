"""Checks of host agents: whether each is live, its version, its problems."""

from collections.abc import Iterator

from manager.doctor.check import Check, Context
from manager.doctor.clocks import clock_changes, host_clocks, time_zones
from manager.doctor.limits import limits_check
from manager.fleet import HostState
from manager.settings import Settings
from manager.system.state_dir import StatePaths
from manager.system.text import counted
from manager.versions import __version__, apart


def host_agents(context: Context) -> Iterator[Check]:
    """Check every known host. Raises FleetUnavailableError."""
    hosts = context.store.hosts()
    yield from host_clocks(hosts)
    yield from time_zones(hosts)
    yield from clock_changes(hosts)
    for host in hosts:
        yield _agent(host, hosts, context)
        if host.live and host.report.limits:
            yield limits_check(host.name, host.report.limits, context.settings)
    if not hosts:
        yield Check(
            code="host_agent",
            outcome="failure",
            where="hosts",
            found="no host agent has ever reported to this Redis",
            advice="start one with `manager up` or `manager host`",
        )


def _agent(host: HostState, hosts: list[HostState], context: Context) -> Check:
    where = f"host {host.name}"
    age = "never" if host.age_seconds is None else f"{host.age_seconds:.0f} s ago"
    if not host.live:
        replaced = host.state == "ended" and any(one.live for one in hosts)
        advice = (
            f"start it on that machine with `manager host` or `manager up`{_log(host.name, context.settings)}"
        )
        if context.writes_refused is not None:
            advice = f"fix `redis_writes` first: no host can report while Redis refuses writes. Then {advice}"
        return Check(
            code="host_agent",
            outcome="warning" if replaced else "failure",
            where=where,
            found=f"{host.name} is {host.state} (last report: {age})",
            advice=advice,
        )
    if not host.facts.compatible:
        return Check(
            code="host_agent",
            outcome="failure",
            where=where,
            found=f"{host.name}: {apart(host.facts.version, __version__)}: it accepts only stops from this "
            "manager",
            advice="upgrade the older one step by step: first to the version before the newer one, then to "
            "the newer one",
        )
    report = host.report
    if report.trouble:
        return Check(
            code="host_agent",
            outcome="failure",
            where=where,
            found=f"{host.name}: {report.trouble}",
            advice="see the host agent's log on that machine; if disk space, file descriptors, threads or "
            "memory are short, raise the limit",
        )
    if report.version != __version__:
        return Check(
            code="host_agent",
            outcome="warning",
            where=where,
            found=f"{host.name} runs version {report.version}; this manager is version {__version__}",
            advice="upgrade the older one and restart its host agent; workers continue meanwhile",
        )
    found = f"{host.name}: pid {report.pid}, {counted(host.workers, 'worker')}, last report {age}"
    return Check(code="host_agent", outcome="ok", where=where, found=found)


def _log(host: str, settings: Settings) -> str:
    path = StatePaths(settings.state_dir).component_log("agent")
    return f" (log: {path})" if host == settings.host and path.exists() else ""
