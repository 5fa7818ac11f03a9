"""Commands `validate` and `config` (show, push, diff, history, rollback)."""

import sys
from typing import TYPE_CHECKING

import click

from manager.cli.common import (
    account_argument,
    configuration,
    json_option,
    print_json,
    print_warning,
    say,
    selected,
    selection_options,
    service,
    settings,
)
from manager.cli.suggestions import Commands
from manager.system.text import counted

if TYPE_CHECKING:
    from manager.fleet.config_versions import ConfigStore
    from manager.models import ValidationResult
    from manager.placement.labels import Selection
    from manager.service import WorkerManagerService


#: Up to this number of accounts without findings, a terminal lists each of them.
_CLEAN_SHOWN = 10


@click.command()
@account_argument(nargs=-1)
@selection_options
@click.option("--here", is_flag=True, help="Check on this machine only, even if hosts are live.")
@json_option
def validate(
    account_ids: tuple[str, ...],
    groups: tuple[str, ...],
    labels: tuple[str, ...],
    here: bool,
    as_json: bool,
) -> int:
    """Check account files: the named or selected ones, or all.

    The hosts that would run the accounts check them with their own credentials, programs and network. If no
    host answers, or with --here, this machine checks them. Needs no Redis and starts nothing.
    """
    fleet = service()
    selection = selected(account_ids, groups, labels)
    checked = None if here else _on_hosts(account_ids, selection, quiet=as_json)
    if checked is None:
        if account_ids:
            results = {account_id: fleet.validate_config(account_id) for account_id in account_ids}
        else:
            results = _here(fleet, selection, quiet=as_json)
        where = "this machine"
    else:
        results = {account_id: result for account_id, (_, result) in checked.items()}
        hosts = sorted({host for host, _ in checked.values() if host})
        where = f"host{'s' * (len(hosts) > 1)} {', '.join(hosts)}" if hosts else "this machine"
    left_out = fleet.not_read()
    missing = sum(key in left_out for key in results)
    invalid = sum(result.has_errors for result in results.values()) - missing
    if as_json:
        print_json(
            [
                {**result.to_dict(), "host": checked[account_id][0] if checked is not None else ""}
                for account_id, result in results.items()
            ]
        )
    else:
        _say_results(list(results.values()), set(left_out))
        counts = f"{len(results) - invalid - missing} valid, {invalid} invalid"
        say(f"{counts}{f', {missing} not read' if missing else ''} (checked on {where})")
    return int(invalid + missing > 0)


def _here(
    fleet: "WorkerManagerService", selection: "Selection", *, quiet: bool
) -> "dict[str, ValidationResult]":
    """Check the accounts on this machine."""
    from manager.terminal.progress import check_progress, progress_console

    files = len(fleet.config_service.list_accounts())
    with check_progress(progress_console(quiet=quiet), 0 if quiet else files) as progress:
        return fleet.validate_all_configs(selection, progress)


def _on_hosts(
    account_ids: tuple[str, ...], selection: "Selection", *, quiet: bool
) -> "dict[str, tuple[str, ValidationResult]] | None":
    """Let the hosts check the accounts; None if no host can be asked."""
    from manager.errors import FleetUnavailableError, HostUnavailableError
    from manager.factory import fleet_store
    from manager.terminal.progress import check_progress, progress_console

    fleet = service()
    try:
        # Read the hosts first: without a live host no progress is shown.
        hosts = [host.name for host in fleet_store(settings()).hosts() if host.live]
        files = 0 if quiet or not hosts else len(account_ids or fleet.config_service.list_accounts())
        with check_progress(progress_console(quiet=quiet), files, hosts) as progress:
            return fleet.validate_on_hosts(account_ids or None, selection, progress)
    except (FleetUnavailableError, HostUnavailableError) as error:
        if settings().redis_url is not None:
            print_warning(
                f"no host could be asked, so host labels, credentials and programs were not checked: {error}"
            )
        return None


def _say_results(results: "list[ValidationResult]", left_out: set[str]) -> None:
    """Print every result.

    On a terminal, results with findings come last, and many results without findings are only counted.
    """
    if sys.stdout.isatty():
        results = sorted(results, key=lambda one: (one.has_errors, one.has_warnings))
        clean = [one for one in results if not (one.has_errors or one.has_warnings)]
        if len(clean) > _CLEAN_SHOWN:
            say(f"{len(clean)} accounts: valid (--json lists each)")
            results = results[len(clean) :]
    for result in results:
        _say(result, read=result.account_id not in left_out)


def _say(result: "ValidationResult", *, read: bool) -> None:
    word = (
        "not read"
        if not read
        else "invalid"
        if result.has_errors
        else "valid, with warnings"
        if result.has_warnings
        else "valid"
    )
    say(f"{result.account_id}: {word}")
    for kind, texts in (("error", result.errors), ("warning", result.warnings)):
        for text in texts:
            say(f"  {kind}: {text}")


@click.group(cls=Commands)
def config() -> None:
    """Show account files, and push them to every host."""


@config.command("show")
@account_argument()
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@json_option
def show(account_id: str, origin: bool, as_json: bool) -> int:
    """Show the configuration that a worker would get.

    It includes all defaults.
    """
    from manager.errors import InvalidConfigError

    files = configuration()
    loaded = files.read_account(account_id)
    for one in files.left_out():
        if not one.name.startswith("accounts"):  # an ignored defaults file changes what this command shows
            print_warning(str(one))
    if loaded.config is None:
        raise InvalidConfigError("\n".join(str(problem) for problem in loaded.problems))
    if as_json and not origin:
        print_json(loaded.shown())
        return 0
    origins = loaded.origins()
    if as_json:
        print_json([{"key": o.key, "value": o.value, "origin": o.origin} for o in origins])
        return 0
    for entry in origins:
        value = "null" if entry.value is None else entry.value
        say(f"{entry.key}: {value}" + (f"    # {entry.origin}" if origin else ""))
    return 0


@config.command("diff")
@click.argument("version", type=int, required=False)
@json_option
def diff(version: int | None, as_json: bool) -> int:
    """Show what `config push` would change.

    With VERSION, show the changes since that version. Exits with 1 if there is a difference.
    """
    from manager.change.config_push import difference

    store = _store()
    now = _current_files(store)
    lines = (
        difference(store.read(version).files, now)
        if version is not None
        else difference(now, _local(quiet=as_json))
    )
    if as_json:
        print_json({"diff": lines})
        return int(bool(lines))
    for line in lines:
        say(line)
    if not lines:
        say("no differences")
    return int(bool(lines))


@config.command("push")
@click.option("-m", "--message", default="", help="The reason, shown by `config history`. [default: none]")
@click.option("--allow-invalid", is_flag=True, help="Also push invalid accounts, which cannot be started.")
@click.option(
    "--allow-literals",
    metavar="REASON",
    help="Also push values that look like secrets. Redis stores them; the audit trail stores the reason. "
    "[default: reject them]",
)
@click.option("--dry-run", is_flag=True, help="Show the changes without making them.")
@json_option
def push(message: str, allow_invalid: bool, allow_literals: str | None, dry_run: bool, as_json: bool) -> int:
    """Store this machine's account files in Redis, for all hosts.

    Hosts with MANAGER_CONFIG_SOURCE=fleet read them from there. All files change at once. What they refer to
    (passwords, programs) stays on each host. Running workers are not affected until they restart.

    A value that looks like a secret is rejected. Replace it with a reference (env:, file:, keyring:), which
    each host resolves.
    """
    from manager.change.config_push import difference, literal_secrets
    from manager.client.caller import caller
    from manager.factory import audit_trail

    if allow_literals is not None and not allow_literals.strip():
        raise click.UsageError("--allow-literals needs a reason, which the audit trail stores")
    trail = audit_trail(settings())
    with trail.refusals("config push", by=caller()):
        files = _local(allow_invalid=allow_invalid, allow_literals=allow_literals is not None, quiet=as_json)
    secrets = literal_secrets(files)
    store = _store()
    current = store.current()
    lines = difference(_current_files(store), files)
    if not as_json:
        for line in lines:
            say(line)
    if not lines or dry_run:
        if as_json:
            print_json({"version": current[0] if current else None, "pushed": False, "diff": lines})
        else:
            say(
                "nothing to push: the fleet already has these files"
                if not lines
                else "dry run: nothing was pushed"
            )
        return 0
    with trail.refusals("config push", by=caller()):
        version = store.push(files, replaces=current[0] if current else 0, by=caller(), message=message)
    trail.note("config push", by=caller(), text=f"version {version}: {message}")
    if secrets:
        places = ", ".join(secrets)
        trail.note("config push literals", by=caller(), text=f"version {version}: {allow_literals}: {places}")
        print_warning(f"version {version} contains {counted(len(secrets), 'secret')} in plain text: {places}")
    if as_json:
        print_json({"version": version, "pushed": True, "diff": lines})
    else:
        say(f"pushed version {version}: {len(files)} files")
        _warn_of_other_sources(version)
    return 0


@config.command("history")
@json_option
def history(as_json: bool) -> int:
    """List the pushed versions, newest first.

    `*` marks the current version.
    """
    store = _store()
    current = store.current()
    found = store.history()
    if as_json:
        print_json([one.to_dict() for one in found])
        return 0
    for one in found:
        mark = "*" if current is not None and one.version == current[0] else " "
        say(
            f"{mark} {one.version}  {one.time:%Y-%m-%d %H:%M:%S} UTC  {one.hash[:12]}  {len(one.files)} "
            f"files  {one.by}  {one.message}"
        )
    if not found:
        say("no version was pushed yet; `manager config push` pushes the first one")
    return 0


@config.command("rollback")
@click.argument("version", type=int)
@json_option
def rollback(version: int, as_json: bool) -> int:
    """Push the files of an old version again, as a new version."""
    from manager.client.caller import caller
    from manager.factory import audit_trail

    trail = audit_trail(settings())
    with trail.refusals("config rollback", by=caller()):
        new = _store().roll_back(version, caller())
    trail.note("config rollback", by=caller(), text=f"version {new}: as version {version}")
    if as_json:
        print_json({"version": new, "pushed": True})
    else:
        say(f"pushed version {new} with the files of version {version}")
        _warn_of_other_sources(new)
    return 0


def _store() -> "ConfigStore":
    from manager.factory import config_store

    return config_store(settings())


def _local(*, allow_invalid: bool = True, allow_literals: bool = True, quiet: bool = False) -> dict[str, str]:
    """Return the files of this machine's config directory.

    MANAGER_CONFIG_SOURCE does not matter here.
    """
    from manager.change.config_push import collect
    from manager.config import ConfigurationService
    from manager.terminal.progress import check_progress, progress_console

    service = ConfigurationService(settings().config_dir)
    with check_progress(
        progress_console(quiet=quiet), 0 if quiet else len(service.list_accounts())
    ) as progress:
        files = collect(
            service, allow_invalid=allow_invalid, allow_literals=allow_literals, progress=progress
        )
    for one in service.left_out() if allow_invalid else ():
        print_warning(str(one))
    return files


def _current_files(store: "ConfigStore") -> dict[str, str]:
    current = store.current()
    return {} if current is None else dict(store.read(current[0]).files)


def _warn_of_other_sources(version: int) -> None:
    """Warn of live hosts that do not read pushed versions."""
    from manager.factory import fleet_store

    for host in fleet_store(settings()).hosts():
        if host.live and host.report.config_source != "fleet":
            print_warning(
                f"host {host.name} reads its own config directory, not version {version}: set "
                "MANAGER_CONFIG_SOURCE=fleet for its host agent, and restart the agent"
            )


COMMANDS = (validate, config)
