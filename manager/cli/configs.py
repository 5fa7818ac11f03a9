"""validate, config show."""

from typing import TYPE_CHECKING

import click

from manager.cli.common import account_argument, json_option, print_json, settings

if TYPE_CHECKING:
    from manager.models import ValidationResult


@click.command()
@account_argument(nargs=-1)
@json_option
def validate(account_ids: tuple[str, ...], as_json: bool) -> int:
    """Check account files: those named, or all. Needs no Redis and starts nothing."""
    from manager.config import ConfigurationService
    from manager.validation import AccountConfigurationValidator

    directory = settings().config_dir
    configuration = ConfigurationService(directory)
    validator = AccountConfigurationValidator(configuration)
    if account_ids:
        for account_id in account_ids:
            configuration.account_path(account_id)
        results = {account_id: validator.validate_account(account_id) for account_id in account_ids}
    else:
        results = validator.validate_all()
    invalid = sum(result.has_errors for result in results.values())
    if as_json:
        print_json([result.to_dict() for result in results.values()])
    else:
        for result in results.values():
            _say(result)
        if not results:
            click.echo(f"no accounts in {directory / 'accounts'}: `manager init` writes the first files")
        click.echo(f"{len(results) - invalid} valid, {invalid} invalid")
    return int(invalid > 0)


def _say(result: "ValidationResult") -> None:
    word = "invalid" if result.has_errors else "valid, with warnings" if result.has_warnings else "valid"
    click.echo(f"{result.account_id}: {word}")
    for kind, texts in (("error", result.errors), ("warning", result.warnings)):
        for text in texts:
            click.echo(f"  {kind}: {text}")


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show")
@account_argument()
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@json_option
def show(account_id: str, origin: bool, as_json: bool) -> int:
    """Show an account's configuration as a worker would get it, defaults merged in."""
    from manager.config import ConfigurationService
    from manager.errors import InvalidConfigError

    loaded = ConfigurationService(settings().config_dir).read_account(account_id)
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
        click.echo(f"{entry.key}: {value}" + (f"    # {entry.origin}" if origin else ""))
    return 0


COMMANDS = (validate, config)
