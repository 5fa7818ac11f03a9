"""Checks of accounts: their files, their workers, and their desired state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from manager.client.commands import Unchecked
from manager.config import ConfigurationService
from manager.config.left_out import LeftOut
from manager.doctor.check import Check, Context, Outcome
from manager.errors import FleetUnavailableError, HostUnavailableError, ManagerError
from manager.factory import build_service, configuration
from manager.fleet.desired import DesiredState
from manager.models import ValidationResult, WorkerInfo
from manager.settings import Settings
from manager.states import SETTLED
from manager.system.text import counted
from manager.telemetry.attention import (
    AccountState,
    Severity,
    account_attention,
    account_states,
    should_run_but_does_not,
)
from manager.validation import AccountConfigurationValidator

#: Seconds that hosts have to check the accounts.
_ANSWER_SECONDS: Final = 15.0
#: Ignored files that get a separate finding; the others are counted.
_SHOWN_FILES: Final = 10
#: Accounts that one finding names.
_NAMED: Final = 5


def config(context: Context) -> Iterator[Check]:
    """Check every account file: on the host that would run it, else here.

    A host agent has its own environment, so only its answer shows whether an `env:` reference can be
    resolved.
    """
    directory = context.settings.config_dir
    where = str(directory)
    if context.settings.config_source == "directory" and not directory.is_dir():
        yield Check(
            code="config",
            outcome="failure",
            where=where,
            found=f"{directory} is not a directory",
            advice="run `manager init` to write example files there, or set MANAGER_CONFIG_DIR to your "
            "directory",
        )
        return
    service = configuration(context.settings)
    left_out = service.left_out()
    yield from _not_read(left_out)
    results = AccountConfigurationValidator(service).validate_all()
    keys = {one.key for one in left_out} | {one.name for one in left_out}
    results = {key: result for key, result in results.items() if key not in keys or result.valid}
    answers, trouble = _ask_hosts(context.settings) if results else ({}, None)
    checked = {key: one for key, (host, one) in answers.items() if host and not isinstance(one, Unchecked)}
    hosts = sorted({host for key, (host, _) in answers.items() if key in checked})
    results = {key: checked.get(key, result) for key, result in results.items()}
    here = sorted(key for key in results if key not in checked and key in answers)
    invalid = sorted(account for account, result in results.items() if result.has_errors)
    warned = sum(result.has_warnings for result in results.values())
    found = f"{len(results)} accounts in {directory}, {len(invalid)} invalid, {warned} with warnings"
    if hosts:
        found += f"; checked by host{'s' * (len(hosts) > 1)} {', '.join(hosts)}"
    if hosts and here:
        them = "it" if len(here) == 1 else "them"
        found += f", but {_names(here)} only in this shell, because no host answered for {them}"
    elif not hosts and results:
        why = trouble or "no host answered"
        found += f"; checked only in this shell ({why}): a host agent may have other credentials"
    if invalid:
        advice = f"run `manager validate` to see what is wrong with {_names(invalid)}"
        yield Check(code="config", outcome="warning", where=where, found=found, advice=advice)
    elif results:
        yield Check(code="config", outcome="ok", where=where, found=found)


def _not_read(left_out: Sequence[LeftOut]) -> Iterator[Check]:
    """Name ignored files that look like configuration.

    A missing accounts directory is one of them.
    """
    for one in left_out[:_SHOWN_FILES]:
        of_accounts = one.name.startswith("accounts")
        effect = (
            "fix this: an account whose file is not read does not trade"
            if of_accounts
            else "fix this: the file has no effect now"
        )
        yield Check(code="config", outcome="failure", where=one.name, found=str(one), advice=effect)
    if len(left_out) > _SHOWN_FILES:
        more = f"{len(left_out) - _SHOWN_FILES} more files are not read"
        advice = "run `manager validate` to see all of them"
        yield Check(code="config", outcome="failure", where="accounts", found=more, advice=advice)


def _ask_hosts(settings: Settings) -> tuple[Mapping[str, tuple[str, ValidationResult]], str | None]:
    """Return the hosts' results, account id → (host, result), and None.

    If no host could be asked, returns an empty mapping and the reason.
    """
    seconds = min(_ANSWER_SECONDS, settings.command_timeout_seconds)
    service = build_service(settings.model_copy(update={"command_timeout_seconds": seconds}))
    try:
        return service.validate_on_hosts(), None
    except HostUnavailableError:
        return {}, "no host agent is live"
    except FleetUnavailableError:
        return {}, "no host agent can be asked without Redis"


def workers(context: Context) -> Iterator[Check]:
    """Count running workers, and show what needs attention: failed, unknown and unhealthy ones.

    Raises FleetUnavailableError.
    """
    accounts, now = _accounts(context)
    infos = [one.worker for one in accounts if one.worker is not None]
    # Accounts that have no worker are in the finding `wanted`; an old version is in `host_agent`.
    found = [
        (account.account_id, attention)
        for account in accounts
        for attention in account_attention(account, now)
        if attention.code != "not_running" and attention.severity is not Severity.INFO
    ]
    resting = sum(bool(info.rest_text) and info.status in SETTLED for info in infos)
    counts = f"{sum(info.status == 'running' for info in infos)} of {len(infos)} running"
    counts += f", {resting} resting by schedule" if resting else ""
    if not found:
        yield Check(code="workers", outcome="ok", where="fleet", found=counts)
        return
    names = _names([f"{account_id} ({attention.code})" for account_id, attention in found])
    yield Check(
        code="workers",
        outcome="warning",
        where="fleet",
        found=f"{counts}; need attention: {names}",
        advice="`manager ps --sort attention` shows the reasons, the most urgent first",
    )
    for account_id, attention in sorted(found, key=lambda one: one[1].urgency)[:_NAMED]:
        yield Check(
            code="workers",
            outcome="warning",
            where=f"account {account_id}",
            found=f"{account_id}: {attention.code}: {' '.join(attention.text.split())}",
            advice=attention.do,
        )


def _accounts(context: Context) -> tuple[list[AccountState], float]:
    hosts, infos = context.store.snapshot(None)
    return account_states(hosts, infos, context.desired.snapshot())


def not_running(context: Context) -> Iterator[Check]:
    """Name accounts that should run but do not, grouped by cause.

    Raises FleetUnavailableError.
    """
    hosts, infos = context.store.snapshot(None)
    accounts, now = account_states(hosts, infos, context.desired.snapshot())
    missing = [
        one.desired for one in accounts if one.desired is not None and should_run_but_does_not(one, now)
    ]
    lost = {host.name for host in hosts if not host.live}
    drained = {host.name for host in hosts if host.live and host.draining}
    kinds: tuple[tuple[str, Outcome, list[DesiredState], str], ...] = (
        (
            "drained",
            "warning",
            [one for one in missing if one.host in drained],
            "run `manager resume-host {host}` to start them again",
        ),
        (
            "wanted",
            "failure",
            [one for one in missing if one.host in lost],
            "start the host agent of {host}; if that host is permanently lost, run `manager move {account} "
            "--to HOST --force`",
        ),
        (
            "wanted",
            "failure",
            [one for one in missing if one.host not in lost | drained],
            "run `manager info {account}` for the reason",
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
            found=f"{counted(len(some), 'account')} should be running but "
            f"{'is' if len(some) == 1 else 'are'} not: {_names(named)}",
            advice=advice.format(host=some[0].host, account=some[0].account_id),
        )


def file_gone(configuration: ConfigurationService, workers: Iterable[WorkerInfo]) -> dict[str, str]:
    """Return recorded accounts without an account file, and the command to run.

    The command is `stop` or `forget`. Empty if this machine has no account files at all, because then only
    the hosts have them.
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
    """Name recorded accounts whose account file is missing.

    Raises FleetUnavailableError.
    """
    gone = file_gone(configuration(context.settings), context.store.list_workers())
    stop = sorted(account_id for account_id, verb in gone.items() if verb == "stop")
    forget = sorted(set(gone) - set(stop))
    kinds: tuple[tuple[list[str], Outcome, str, str], ...] = (
        (stop, "failure", "it still has a worker, or a host will start one again", "stop"),
        (forget, "warning", "it has no worker", "forget"),
    )
    for names, outcome, text, verb in kinds:
        for account_id in names[:10]:
            yield Check(
                code="file_gone",
                outcome=outcome,
                where=f"account {account_id}",
                found=f"{account_id}: its account file is missing, and {text}",
                advice=f"restore the file, or run `manager {verb} {account_id}`",
            )


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
