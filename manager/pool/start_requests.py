"""Creates start requests.

They load and validate the account's configuration when a pool starts the account.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from manager.config import AccountConfig, LoadedAccount
from manager.errors import AccountDisabledError, AccountNotFoundError, InvalidConfigError
from manager.models import ValidationResult
from manager.pool.commands import CommandSpec
from manager.pool.protocol import StartRequest
from manager.system import logs
from manager.validation.accounts import AccountConfigs, Accounts, Validator

logger: Final = logging.getLogger(__name__)


class StartRequestFactory:
    """Creates start requests for the accounts of one configuration service."""

    def __init__(self, config_service: AccountConfigs, validator: Validator | None = None) -> None:
        self.accounts = Accounts(config_service, validator)

    def start_request(
        self,
        account_id: str,
        apply_defaults: bool = True,
        validate: bool = True,
        generation: int = 0,
        config: AccountConfig | None = None,
    ) -> StartRequest:
        """Return a request to start the account. Reads no file before the start.

        `config`, if the caller has it, provides the account's requirements on its host.
        """

        def prepare() -> AccountConfig:
            return self._prepare(account_id, apply_defaults, validate)

        return StartRequest(
            account_id,
            apply_defaults,
            validate,
            prepare,
            generation,
            None if config is None else config.needs(),
            config is not None and config.failover == "auto",
            check=prepare if validate and self.accounts.own_verdict else None,
        )

    def for_many(
        self, command: CommandSpec, account_ids: Sequence[str], apply_defaults: bool, validate: bool
    ) -> tuple[list[StartRequest], dict[str, tuple[str, str]]]:
        """Return the requests to start these accounts, and the outcomes of the others.

        An account without a file here is requested: its host may have one.
        """
        requests: list[StartRequest] = []
        settled: dict[str, tuple[str, str]] = {}
        for account_id in account_ids:
            try:
                config = self.accounts.read(account_id).config
            except AccountNotFoundError:
                requests.append(self.start_request(account_id, apply_defaults, validate))
                continue
            if config is None:
                settled[account_id] = ("failed", str(self.problems(account_id)))
            elif not config.enabled and not command.restart:
                settled[account_id] = _disabled(account_id)
            else:
                requests.append(self.start_request(account_id, apply_defaults, validate, config=config))
        return requests, settled

    def for_all(
        self, selected: Mapping[str, LoadedAccount | None], apply_defaults: bool, validate: bool
    ) -> tuple[list[StartRequest], dict[str, tuple[str, str]]]:
        """Return the requests to start the enabled accounts, and the outcomes of the others."""
        requests: list[StartRequest] = []
        settled: dict[str, tuple[str, str]] = {}
        for account_id, loaded in selected.items():
            config = None if loaded is None else loaded.config
            if config is None:
                settled[account_id] = ("failed", str(self.problems(account_id)))
            elif config.enabled:
                requests.append(self.start_request(account_id, apply_defaults, validate, config=config))
            else:
                settled[account_id] = _disabled(account_id)
        return requests, settled

    def restarts(
        self, selected: Mapping[str, LoadedAccount | None], present: Collection[str]
    ) -> tuple[list[StartRequest], dict[str, tuple[str, str]]]:
        """Return the requests to restart the accounts with a worker (`present`), and other outcomes."""
        requests: list[StartRequest] = []
        settled: dict[str, tuple[str, str]] = {}
        for account_id, loaded in selected.items():
            if account_id not in present:
                settled[account_id] = ("skipped", f"{account_id} has no worker: nothing to restart")
            elif loaded is None or loaded.config is None:
                settled[account_id] = ("failed", str(self.problems(account_id)))
            else:
                requests.append(self.start_request(account_id, config=loaded.config))
        return requests, settled

    def problems(self, account_id: str, apply_defaults: bool = True) -> InvalidConfigError:
        """Return the error that lists every problem of the account's files."""
        return _invalid(self.accounts.check(account_id, apply_defaults))

    def _prepare(self, account_id: str, apply_defaults: bool, validate: bool) -> AccountConfig:
        try:
            config = self.accounts.load(account_id, apply_defaults)
        except InvalidConfigError:
            if not validate:
                raise
            # The error names only what prevents reading the file. Report every problem of it.
            raise self.problems(account_id, apply_defaults) from None
        if not config.enabled:
            raise AccountDisabledError(
                f"{account_id} is disabled: set `enabled: true` in {self.accounts.place(account_id)}"
            )
        if validate:
            result = self.accounts.check(account_id, apply_defaults)
            for warning in result.warnings:
                logs.event(logger, logging.WARNING, "config_warning", warning, account=account_id)
            if result.has_errors:
                raise _invalid(result)
        return config


def _disabled(account_id: str) -> tuple[str, str]:
    return "skipped", f"{account_id}: disabled in its file (enabled: false)"


def _invalid(result: ValidationResult) -> InvalidConfigError:
    logs.event(logger, logging.WARNING, "config_invalid", "; ".join(result.errors), account=result.account_id)
    return InvalidConfigError(
        f"{result.account_id} is invalid ({len(result.errors)} error{'s' * (len(result.errors) != 1)}):\n"
        + "\n".join(result.errors)
    )
