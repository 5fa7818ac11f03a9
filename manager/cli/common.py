"""Options, settings and output that several commands share."""

import json
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manager.system.text import printable

if TYPE_CHECKING:
    from manager.config import ConfigurationService
    from manager.placement.labels import Selection
    from manager.service import WorkerManagerService
    from manager.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def account_argument(**options: Any) -> Callable[[F], F]:
    """Add the account id (or ids), which the shell completes from the account files."""
    name = "account_ids" if options.get("nargs") == -1 else "account_id"
    return click.argument(
        name, metavar="[ACCOUNT]..." if "nargs" in options else "ACCOUNT", shell_complete=_ids, **options
    )


def _ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from manager.config import ConfigurationService

    try:
        found = ConfigurationService(settings().config_dir).list_accounts()
    except Exception:
        return []
    return [account_id for account_id in found if account_id.startswith(incomplete)]


def _groups(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from manager.config import ConfigurationService

    try:
        service = ConfigurationService(settings().config_dir)
        read = (service.read_account(account_id).repaired for account_id in service.list_accounts())
        found = {group for config in read if config is not None for group in config.groups}
    except Exception:
        return []
    return sorted(group for group in found if group.startswith(incomplete))


def complete_hosts(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete a host name from the desired state saved on this machine.

    Reads no Redis, so that completion never waits.
    """
    from manager.host.reconcile.desired_state_file import DesiredStateFile
    from manager.system.state_dir import StatePaths

    try:
        now = settings()
        known, _ = DesiredStateFile(StatePaths(now.state_dir).root / "desired.json").load()
        found = {now.host, *(one.host for one in known.values() if one.host)}
    except Exception:
        return []
    return sorted(host for host in found if host.startswith(incomplete))


def selection_options(command: F) -> F:
    """Add `--group` and `-l`."""
    command = click.option(
        "-l",
        "--label",
        "labels",
        multiple=True,
        metavar="KEY[=VALUE]",
        help="Only accounts with this label; if repeated, with all of them.",
    )(command)
    return click.option(
        "--group",
        "groups",
        multiple=True,
        metavar="NAME",
        shell_complete=_groups,
        help="Only accounts of this group; if repeated, of any of them.",
    )(command)


def selected(account_ids: tuple[str, ...], groups: tuple[str, ...], labels: tuple[str, ...]) -> "Selection":
    """Return the selection by --group and -l.

    Raises click.UsageError if accounts are named as well, or if a command that needs accounts gets neither.
    """
    from manager.placement.labels import Selection

    selection = Selection(groups, labels)
    if account_ids and selection:
        raise click.UsageError("use either account ids or --group and -l, not both")
    context = click.get_current_context()
    of_a_group = context.parent is not None and context.parent.parent is not None
    if not account_ids and not selection and context.info_name in _NEED_ACCOUNTS and not of_a_group:
        raise click.UsageError("name at least one account, or use --group NAME or -l KEY=VALUE")
    return selection


#: Commands that require accounts or a selection, so that a missing argument never means every account.
_NEED_ACCOUNTS = frozenset({"start", "stop", "restart", "logs"})


def settings() -> "Settings":
    """Return the settings, and send this process's log to stderr.

    Logs below CRITICAL are printed only if MANAGER_LOG_LEVEL is set.
    """
    from manager.settings import load_settings
    from manager.system import logs
    from manager.system.masking import url_secrets

    loaded = load_settings()
    url = "" if loaded.redis_url is None else loaded.redis_url.get_secret_value()
    level_given = "MANAGER_LOG_LEVEL" in os.environ
    logs.configure(
        level=loaded.log_level if level_given else "CRITICAL",
        as_json=loaded.log_json,
        secrets=url_secrets(url),
    )
    logging.captureWarnings(capture=True)
    return loaded


def service() -> "WorkerManagerService":
    """Return the fleet's service."""
    import logging

    # This logger advises to restart the application, which is wrong for a command. The command's error is
    # enough.
    logging.getLogger("celery.backends.asynchronous").setLevel(logging.CRITICAL + 1)
    from manager.factory import build_service

    return build_service(settings())


def configuration() -> "ConfigurationService":
    """Return the configuration service over this machine's account files."""
    from manager import factory

    return factory.configuration(settings())


def say(text: str) -> None:
    """Print a line for people."""
    click.echo(printable(text))


def print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_warning(message: str) -> None:
    click.echo(f"warning: {printable(message)}", err=True)


def print_error(message: str) -> None:
    click.echo(f"error: {printable(message)}", err=True)
