"""From an account's name to an order that a pool carries out, its configuration checked when that happens."""

import logging
from typing import Final

from manager import logs
from manager.config import AccountConfig, ConfigurationService
from manager.errors import AccountDisabledError, InvalidConfigError
from manager.models import ValidationResult
from manager.pool import StartOrder
from manager.validation.validator import AccountConfigurationValidator

logger: Final = logging.getLogger(__name__)


class OrderBook:
    """Makes orders for the accounts of one configuration directory."""

    def __init__(
        self, config_service: ConfigurationService, validator: AccountConfigurationValidator
    ) -> None:
        self._config_service = config_service
        self._validator = validator

    def order(
        self,
        account_id: str,
        apply_defaults: bool = True,
        validate: bool = True,
        generation: int = 0,
        config: AccountConfig | None = None,
    ) -> StartOrder:
        """Return the order to start the account; nothing is read before it is carried out.

        `config`, where it is at hand, tells where the account may run.
        """
        return StartOrder(
            account_id,
            apply_defaults,
            validate,
            lambda: self._prepare(account_id, apply_defaults, validate),
            generation,
            None if config is None else config.needs(),
            config is not None and config.failover == "auto",
        )

    def problems(self, account_id: str, apply_defaults: bool = True) -> InvalidConfigError:
        """Return the error that tells everything that is wrong with the account's files."""
        return _invalid(self._validator.validate_account(account_id, apply_defaults))

    def _prepare(self, account_id: str, apply_defaults: bool, validate: bool) -> AccountConfig:
        try:
            config = self._config_service.load_account_config(account_id, apply_defaults)
        except InvalidConfigError:
            if not validate:
                raise
            # What keeps the file from being read is not all that is wrong with it.
            raise self.problems(account_id, apply_defaults) from None
        if not config.enabled:
            raise AccountDisabledError(
                f"{account_id} is disabled: set `enabled: true` in {self._config_service.account_path(account_id)}"
            )
        if validate:
            result = self._validator.validate_account(account_id, apply_defaults)
            for warning in result.warnings:
                logs.event(logger, logging.WARNING, "validate", warning, account=account_id)
            if result.has_errors:
                raise _invalid(result)
        return config


def _invalid(result: ValidationResult) -> InvalidConfigError:
    logs.event(
        logger, logging.WARNING, "validate", "; ".join(result.errors), account=result.account_id, valid=False
    )
    return InvalidConfigError(
        f"{result.account_id} is invalid ({len(result.errors)} error{'s' * (len(result.errors) != 1)}):\n"
        + "\n".join(result.errors)
    )
