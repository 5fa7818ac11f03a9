"""What `manager doctor` looks at. Each check says what was found and, where it is not well, what to do."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from manager.config import ConfigurationService
from manager.errors import FleetUnavailableError, ManagerError
from manager.factory import configuration, desired_store, fleet_store
from manager.fleet import FleetStore, safe_url
from manager.fleet.address import parse_redis_url
from manager.fleet.desired import DesiredState, DesiredStore
from manager.fleet.store import ServerLimits
from manager.models import WorkerInfo
from manager.secure.exposed import open_files, url_problem
from manager.settings import Settings
from manager.states import SETTLED
from manager.system.state_dir import StatePaths
from manager.terminal.text import counted
from manager.validation import AccountConfigurationValidator
from manager.versions import __version__, apart

Outcome = Literal["ok", "warning", "failure"]

#: Bytes. Less than this, and logs and Redis's append-only file soon fill the disk.
_LITTLE_DISK: Final = 500 * 1024 * 1024
#: Seconds between this machine's clock and Redis's from which on logs of two hosts can no longer be compared.
_CLOCK_SKEW: Final = 2.0
#: Seconds that a command to Redis takes at most where all is well.
_SLOW_REDIS: Final = 0.05
_MIN_REDIS: Final = (6, 2)
#: Part of a server's connections from which on there is little room for more workers.
_CROWDED: Final = 0.8
#: Milliseconds after a command, or after it came to its host, in which an account may have no worker yet.
_ON_ITS_WAY_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    outcome: Outcome
    found: str
    advice: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(settings: Settings) -> list[Check]:
    """Run every check; one that breaks is itself a finding, and the others go on."""
    store = fleet_store(settings)
    checks: list[Check] = []
    steps: tuple[Callable[[], Iterator[Check]], ...] = (
        _versions,
        lambda: _config(settings),
        lambda: _secrets(settings),
        lambda: _state(settings),
        lambda: _redis(store),
        lambda: _agents(store, settings),
        lambda: _workers(store),
        lambda: _wanted(store, desired_store(settings)),
        lambda: _files_gone(store, settings),
    )
    for step in steps:
        try:
            checks.extend(step())
        except FleetUnavailableError as error:
            # What comes after it would find the same.
            checks.append(
                Check("redis", "failure", str(error), "hosts, workers and what is wanted were not looked at")
            )
            break
        except ManagerError as error:
            checks.append(Check(error.code, "failure", str(error)))
    return checks


def _versions() -> Iterator[Check]:
    found = {name: _version(name) for name in ("celery", "kombu", "redis", "pydantic", "flower")}
    text = f"manager {__version__}, Python {sys.version.split()[0]}, " + ", ".join(
        f"{name} {number}" for name, number in found.items()
    )
    if tuple(int(part) for part in found["kombu"].split(".")[:2] if part.isdigit()) < (5, 7):
        yield Check(
            "versions",
            "failure",
            text,
            "kombu before 5.7 can reconnect and then consume nothing: pip install --upgrade kombu",
        )
    else:
        yield Check("versions", "ok", text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _config(settings: Settings) -> Iterator[Check]:
    directory = settings.config_dir
    if not directory.is_dir():
        yield Check(
            "config",
            "failure",
            f"{directory} is no directory",
            "`manager init` writes the first files; MANAGER_CONFIG_DIR names another place",
        )
        return
    service = ConfigurationService(directory)
    results = AccountConfigurationValidator(service).validate_all()
    invalid = sorted(account for account, result in results.items() if result.has_errors)
    warned = sum(result.has_warnings for result in results.values())
    found = f"{len(results)} accounts in {directory}, {len(invalid)} invalid, {warned} with warnings"
    if invalid:
        shown = ", ".join(invalid[:5]) + (" ..." if len(invalid) > 5 else "")
        yield Check("config", "warning", found, f"`manager validate` shows what is wrong with {shown}")
    elif not results:
        yield Check("config", "warning", found, "`manager init` writes the first files")
    else:
        yield Check("config", "ok", found)


def _secrets(settings: Settings) -> Iterator[Check]:
    url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
    unchecked = url_problem(url)
    if unchecked is not None:
        yield Check(
            "secrets",
            "warning",
            f"the Redis URL says {unchecked}",
            "use ssl_cert_reqs=required and ssl_ca_certs=FILE; `manager secure init` makes both",
        )
    readable = open_files(settings)
    if readable:
        shown = "; ".join(readable[:5]) + (" ..." if len(readable) > 5 else "")
        yield Check(
            "secrets",
            "warning",
            f"{counted(len(readable), 'file')} with secrets may be read by others: {shown}",
            "chmod 600 them, owned by the user that runs the host agent; change the secrets if others use this machine",
        )
    if unchecked is None and not readable:
        yield Check("secrets", "ok", "no file with secrets may be read by others")


def _state(settings: Settings) -> Iterator[Check]:
    StatePaths(settings.state_dir).create()
    usage = shutil.disk_usage(settings.state_dir)
    found = f"{settings.state_dir}, {usage.free / 1e9:.1f} GB free"
    if usage.free < _LITTLE_DISK:
        yield Check("state", "failure", found, "free some space: logs and Redis's data are written here")
    else:
        yield Check("state", "ok", found)


def _redis(store: FleetStore) -> Iterator[Check]:
    began = time.monotonic()
    server = store.ping()
    took = (time.monotonic() - began) / 2
    where = safe_url(store.url)
    number = str(server.get("redis_version", "0"))
    if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) < _MIN_REDIS:
        yield Check("redis", "failure", f"version {number} at {where}", "use Redis 6.2 or later, or Valkey")
    elif took > _SLOW_REDIS:
        yield Check(
            "redis",
            "warning",
            f"version {number} at {where} takes {took * 1000:.0f} ms to answer",
            "look at its load and at the network between here and there",
        )
    else:
        yield Check("redis", "ok", f"version {number} at {where}, answers in {took * 1000:.1f} ms")
    yield from _redis_limits(store.server_limits())
    yield from _redis_settings(store)
    skew = time.time() - float(server["time"])
    if abs(skew) > _CLOCK_SKEW:
        yield Check(
            "clock",
            "warning",
            f"this machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's",
            "let both follow NTP: task expiry and the times in logs depend on it",
        )
    else:
        yield Check("clock", "ok", f"this machine's is {abs(skew) * 1000:.0f} ms from Redis's")


def _redis_limits(limits: ServerLimits) -> Iterator[Check]:
    if limits.role == "slave":
        yield Check(
            "redis role",
            "failure",
            "this Redis is a read-only replica",
            "point MANAGER_REDIS_URL at the primary, or at the Sentinels that know it (sentinel://)",
        )
    if limits.most_connections is None:
        return
    found = f"{limits.connections} of {limits.most_connections} connections in use (maxclients)"
    if limits.connections >= limits.most_connections * _CROWDED:
        yield Check(
            "redis connections",
            "warning",
            found,
            "raise maxclients and the server's limit of open files: each worker needs a connection, and one that gets none "
            "cannot renew its lease",
        )
    else:
        yield Check("redis connections", "ok", found)


def _redis_settings(store: FleetStore) -> Iterator[Check]:
    found = store.server_settings()
    if found is None:
        yield Check("redis settings", "ok", "this user may not read them")
        return
    if found.get("maxmemory-policy") != "noeviction":
        yield Check(
            "redis settings",
            "failure",
            f"maxmemory-policy is {found.get('maxmemory-policy')}",
            "set it to noeviction: an evicting Redis throws queued commands away",
        )
    if found.get("appendonly") != "yes":
        yield Check(
            "redis settings",
            "warning",
            "appendonly is no",
            "set `appendonly yes` and `appendfsync everysec`: a restart otherwise forgets what was asked",
        )
    if parse_redis_url(store.url).kind == "sentinel" and found.get("min-replicas-to-write", "0") == "0":
        yield Check(
            "redis settings",
            "failure",
            "min-replicas-to-write is 0 although Sentinel may choose another primary",
            "set it to 1 on every server, and min-replicas-max-lag to at most Sentinel's down-after-milliseconds: a primary "
            "that is cut off otherwise goes on renewing leases that the new one does not know",
        )
    if found.get("maxmemory-policy") == "noeviction" and found.get("appendonly") == "yes":
        yield Check("redis settings", "ok", "noeviction, append-only file")


def _agents(store: FleetStore, settings: Settings) -> Iterator[Check]:
    hosts = store.hosts()
    for host in hosts:
        age = "never" if host.age_seconds is None else f"{host.age_seconds:.0f} s ago"
        skew = host.clock_skew_seconds
        if host.live and skew is not None and abs(skew) > _CLOCK_SKEW:
            yield Check(
                "clock",
                "warning",
                f"{host.name}: its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's",
                "run NTP there: the expiry of commands and the times in logs depend on it",
            )
        if not host.live:
            yield Check(
                "host agent",
                "warning" if host.state == "ended" and any(h.live for h in hosts) else "failure",
                f"{host.name} is {host.state} (last word: {age})",
                f"start it on that machine: `manager host`, or `manager up`{_agent_log(host.name, settings)}",
            )
        elif not host.facts.understood:
            yield Check(
                "host agent",
                "failure",
                f"{host.name}: {apart(host.facts.version, __version__)}: it takes stops from here and nothing else",
                "bring the older one to the version before the newer one's first, then to the newer one's",
            )
        elif host.data.get("version") != __version__:
            yield Check(
                "host agent",
                "warning",
                f"{host.name} runs version {host.data.get('version')}, this is {__version__}",
                "restart its agent with the new version; its workers go on meanwhile",
            )
        elif host.data.get("trouble"):
            yield Check(
                "host agent",
                "failure",
                f"{host.name}: {host.data['trouble']}",
                "see its log; where it is short of disk, files, threads or memory, give it more",
            )
        else:
            yield Check(
                "host agent",
                "ok",
                f"{host.name}: pid {host.data.get('pid')}, {counted(host.workers, 'worker')}, heard {age}",
            )
    if not hosts:
        yield Check(
            "host agent",
            "failure",
            "none has ever reported here",
            "start one: `manager up` or `manager host`",
        )


def _workers(store: FleetStore) -> Iterator[Check]:
    workers = store.list_workers()
    bad = [
        info
        for info in workers
        if info.status in ("failed", "unknown") or info.health in ("degraded", "unhealthy")
    ]
    found = f"{sum(info.status == 'running' for info in workers)} of {len(workers)} running"
    if not bad:
        yield Check("workers", "ok", found)
        return
    names = ", ".join(
        f"{info.account_id} ({', '.join(dict.fromkeys((str(info.status), str(info.health))))})"
        for info in bad[:5]
    )
    yield Check(
        "workers",
        "warning",
        f"{found}; not well: {names}" + (" ..." if len(bad) > 5 else ""),
        f"`manager info {bad[0].account_id}` and `manager logs {bad[0].account_id}` show why",
    )


def should_run(desired: DesiredStore, workers: Iterable[WorkerInfo]) -> list[DesiredState]:
    """Return what is wanted of accounts that should run and have no worker, nor one on its way; by account id.

    A worker that nobody can say anything of counts as one. Raises FleetUnavailableError.
    """
    snapshot = desired.snapshot()
    if snapshot is None:
        return []
    there = {info.account_id for info in workers if info.status not in SETTLED}
    missing = (
        one
        for one in snapshot.desired.values()
        if one.running
        and one.account_id not in there
        and snapshot.now - max(one.at, one.claimed) > _ON_ITS_WAY_MS
    )
    return sorted(missing, key=lambda one: one.account_id)


def _wanted(store: FleetStore, desired: DesiredStore) -> Iterator[Check]:
    hosts, workers = store.look(None)
    missing = should_run(desired, workers)
    lost = {host.name for host in hosts if not host.live}
    drained = {host.name for host in hosts if host.live and host.draining}
    kinds: tuple[tuple[str, Outcome, list[DesiredState], str], ...] = (
        (
            "drained",
            "warning",
            [one for one in missing if one.host in drained],
            "`manager resume-host {host}` brings them back",
        ),
        (
            "wanted",
            "failure",
            [one for one in missing if one.host in lost],
            "start host {host}'s agent; if it is lost for good, `manager move {account} --to HOST --force`",
        ),
        (
            "wanted",
            "failure",
            [one for one in missing if one.host not in lost | drained],
            "`manager info {account}` shows why",
        ),
    )
    for name, outcome, some, advice in kinds:
        if some:
            names = ", ".join(f"{one.account_id} (on {one.host or 'no host yet'})" for one in some[:5])
            found = f"{counted(len(some), 'account')} should run and do not: {names}" + (
                " ..." if len(some) > 5 else ""
            )
            yield Check(name, outcome, found, advice.format(host=some[0].host, account=some[0].account_id))


def file_gone(configuration: ConfigurationService, workers: Iterable[WorkerInfo]) -> dict[str, str]:
    """Return the recorded accounts that have no file, with the command that ends that: `stop` or `forget`.

    Empty where this machine has no account files at all: then the hosts have them.
    """
    try:
        known = set(configuration.list_accounts())
    except ManagerError:
        return {}
    if not known:
        return {}
    gone = (info for info in workers if info.account_id not in known)
    return {info.account_id: "forget" if info.status in SETTLED else "stop" for info in gone}


def _files_gone(store: FleetStore, settings: Settings) -> Iterator[Check]:
    gone = file_gone(configuration(settings), store.list_workers())
    stop = sorted(account_id for account_id, verb in gone.items() if verb == "stop")
    forget = sorted(set(gone) - set(stop))
    for names, outcome, text, verb in (
        (stop, "failure", "still has a worker, or would get one again", "stop"),
        (forget, "warning", "has no worker any more", "forget"),
    ):
        for account_id in names[:10]:
            yield Check(
                "file gone",
                outcome,  # type: ignore[arg-type]
                f"{account_id}: its file is gone, and it {text}",
                f"`manager {verb} {account_id}`, or put the file back",
            )


def _agent_log(host: str, settings: Settings) -> str:
    path = StatePaths(settings.state_dir).component_log("agent")
    return f" (log: {path})" if host == settings.host and path.exists() else ""
