"""Checks of the accounts: their files, as the hosts see them, and whether what should run does."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from manager.client.commands import Unchecked
from manager.config import ConfigurationService
from manager.config.left_out import LeftOut
from manager.doctor.check import Check, Context, Outcome
from manager.errors import FleetUnavailableError, HostUnavailableError, ManagerError
from manager.factory import build_service, configuration
from manager.fleet.desired import DesiredState
from manager.fleet.desired_store import DesiredStore
from manager.models import ValidationResult, WorkerInfo
from manager.settings import Settings
from manager.states import SETTLED
from manager.system.text import counted
from manager.validation import AccountConfigurationValidator

#: Milliseconds after a command, or after it came to its host, in which an account may have no worker yet.
_ON_ITS_WAY_MS: Final = 5_000
#: Seconds in which hosts must have checked the accounts.
_ANSWER_SECONDS: Final = 15.0
#: Files that are not read, each in a finding.
_SHOWN_FILES: Final = 10
#: Accounts that one finding names.
_NAMED: Final = 5


def config(context: Context) -> Iterator[Check]:
    """Check every account file: by the host that would run it, else as this shell sees it.

    A host agent has its own environment, so only its answer says whether an `env:` reference leads anywhere.
    """
    directory = context.settings.config_dir
    where = str(directory)
    if context.settings.config_source == "directory" and not directory.is_dir():
        yield Check(
            code="config",
            outcome="failure",
            where=where,
            found=f"{directory} is not a directory",
            advice="`manager init` writes the first files; MANAGER_CONFIG_DIR names another place",
        )
        return
    service = configuration(context.settings)
    left_out = service.left_out()
    yield from _not_read(left_out)
    results = AccountConfigurationValidator(service).validate_all()
    keys = {one.key for one in left_out} | {one.name for one in left_out}
    results = {key: result for key, result in results.items() if key not in keys or result.valid}
    answers, trouble = _ask_hosts(context.settings) if results else ({}, None)
    told = {key: one for key, (host, one) in answers.items() if host and not isinstance(one, Unchecked)}
    hosts = sorted({host for key, (host, _) in answers.items() if key in told})
    results = {key: told.get(key, result) for key, result in results.items()}
    # Of a file that cannot be read a host says nothing else.
    here = sorted(key for key in results if key not in told and key in answers)
    invalid = sorted(account for account, result in results.items() if result.has_errors)
    warned = sum(result.has_warnings for result in results.values())
    found = f"{len(results)} accounts in {directory}, {len(invalid)} invalid, {warned} with warnings"
    if hosts:
        found += f"; checked by host{'s' * (len(hosts) > 1)} {', '.join(hosts)}"
    if hosts and here:
        found += f", but {_names(here)} only in this shell, as no host answered for {'it' if len(here) == 1 else 'them'}"
    elif not hosts and results:
        found += f"; checked only in this shell ({trouble or 'no host answered'}): a host agent may have other credentials"
    if invalid:
        advice = f"`manager validate` shows what is wrong with {_names(invalid)}"
        yield Check(code="config", outcome="warning", where=where, found=found, advice=advice)
    elif results:
        yield Check(code="config", outcome="ok", where=where, found=found)


def _not_read(left_out: Sequence[LeftOut]) -> Iterator[Check]:
    """Name the files that look as if they were meant to be read, and are not; a missing accounts directory too."""
    for one in left_out[:_SHOWN_FILES]:
        of_accounts = one.name.startswith("accounts")
        effect = (
            "an account whose file is not read does not trade" if of_accounts else "it has no effect as it is"
        )
        yield Check(code="config", outcome="failure", where=one.name, found=str(one), advice=effect)
    if len(left_out) > _SHOWN_FILES:
        more = f"{len(left_out) - _SHOWN_FILES} more files are not read"
        advice = "`manager validate` names all of them"
        yield Check(code="config", outcome="failure", where="accounts", found=more, advice=advice)


def _ask_hosts(settings: Settings) -> tuple[Mapping[str, tuple[str, ValidationResult]], str | None]:
    """Return what the hosts say of the accounts: id → (host, result); or why no host could be asked."""
    seconds = min(_ANSWER_SECONDS, settings.command_timeout_seconds)
    service = build_service(settings.model_copy(update={"command_timeout_seconds": seconds}))
    try:
        return service.validate_on_hosts(), None
    except HostUnavailableError:
        return {}, "no host agent is live"
    except FleetUnavailableError:
        return {}, "no host agent can be asked without Redis"


def workers(context: Context) -> Iterator[Check]:
    """Count the workers that run, and name those that are not well. Raises FleetUnavailableError."""
    infos = context.store.list_workers()
    bad = [
        info
        for info in infos
        if info.status in ("failed", "unknown") or info.health in ("degraded", "unhealthy")
    ]
    found = f"{sum(info.status == 'running' for info in infos)} of {len(infos)} running"
    if not bad:
        yield Check(code="workers", outcome="ok", where="fleet", found=found)
        return
    names = ", ".join(
        f"{info.account_id} ({', '.join(dict.fromkeys((str(info.status), str(info.health))))})"
        for info in bad[:_NAMED]
    )
    yield Check(
        code="workers",
        outcome="warning",
        where="fleet",
        found=f"{found}; not well: {names}" + (" ..." if len(bad) > _NAMED else ""),
        advice=f"`manager info {bad[0].account_id}` and `manager logs {bad[0].account_id}` show why",
    )


def should_run(desired: DesiredStore, workers: Iterable[WorkerInfo]) -> list[DesiredState]:
    """Return the desired state of accounts that should run and have no worker, nor one on its way; by account id.

    A worker of which nothing can be said counts as one. Raises FleetUnavailableError.
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


def wanted(context: Context) -> Iterator[Check]:
    """Name accounts that should run and do not, by what keeps them. Raises FleetUnavailableError."""
    hosts, infos = context.store.snapshot(None)
    missing = should_run(context.desired, infos)
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
    for code, outcome, some, advice in kinds:
        if not some:
            continue
        named = [f"{one.account_id} (on {one.host or 'no host yet'})" for one in some]
        yield Check(
            code=code,
            outcome=outcome,
            where=", ".join(sorted({f"host {one.host}" if one.host else "no host yet" for one in some})),
            found=f"{counted(len(some), 'account')} should run and do not: {_names(named)}",
            advice=advice.format(host=some[0].host, account=some[0].account_id),
        )


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


def files_gone(context: Context) -> Iterator[Check]:
    """Name recorded accounts whose file was deleted. Raises FleetUnavailableError."""
    gone = file_gone(configuration(context.settings), context.store.list_workers())
    stop = sorted(account_id for account_id, verb in gone.items() if verb == "stop")
    forget = sorted(set(gone) - set(stop))
    kinds: tuple[tuple[list[str], Outcome, str, str], ...] = (
        (stop, "failure", "still has a worker, or would get one again", "stop"),
        (forget, "warning", "has no worker any more", "forget"),
    )
    for names, outcome, text, verb in kinds:
        for account_id in names[:10]:
            yield Check(
                code="file_gone",
                outcome=outcome,
                where=f"account {account_id}",
                found=f"{account_id}: its file is gone, and it {text}",
                advice=f"`manager {verb} {account_id}`, or put the file back",
            )


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
