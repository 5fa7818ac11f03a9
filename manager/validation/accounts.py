"""Reads and checks accounts."""

from collections.abc import Sequence
from typing import Protocol, TypeGuard

from manager.config import AccountConfig, ConfigurationService, LoadedAccount, Problem
from manager.config.check_progress import CheckProgress, report
from manager.config.document import Document
from manager.errors import AccountNotFoundError, InvalidAccountIdError, InvalidConfigError, ManagerError
from manager.models import ValidationResult
from manager.validation.validator import AccountConfigurationValidator, not_read


class AccountConfigs(Protocol):
    """Protocol of a configuration service."""

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """Return the account's configuration.

        Raises ValueError if the account does not exist or cannot be read."""

    def list_accounts(self) -> Sequence[str]:
        """Return the ids of all accounts."""


class Validator(Protocol):
    """Protocol of a validator."""

    def validate(self, config: AccountConfig) -> ValidationResult:
        """Check one configuration."""


class Accounts:
    """Reads and checks accounts.

    Problems in files have a position; other problems do not.
    """

    def __init__(self, configs: AccountConfigs, validator: Validator | None = None) -> None:
        self._configs = configs
        #: Set if `ConfigurationService` itself reads the accounts from files.
        self.files: ConfigurationService | None = configs if _reads_files(configs) else None
        self.validator: Validator = validator or AccountConfigurationValidator(self.files)
        #: The standard validator of these files; it also reports why a file cannot be read.
        self._standard: AccountConfigurationValidator | None = None
        if self.files is not None and _is_standard(self.validator) and self.validator.reads(self.files):
            self._standard = self.validator

    @property
    def own_verdict(self) -> bool:
        """Whether a custom validator is set, which hosts may not have."""
        return not _is_standard(self.validator)

    def ids(self) -> list[str]:
        """Return the ids of all accounts."""
        return list(self._configs.list_accounts())

    def load(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """Return the account's configuration.

        Raises AccountNotFoundError or another ManagerError, whatever the configuration service raises.
        """
        try:
            if apply_defaults:
                return self._configs.load_account_config(account_id)
            return self._configs.load_account_config(account_id, apply_defaults=False)
        except ManagerError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            if account_id not in self.ids():
                raise AccountNotFoundError(f"no account {account_id}: {text}") from error
            raise InvalidConfigError(f"{account_id}: {text}") from error

    def require(self, account_id: str) -> None:
        """Raise AccountNotFoundError or InvalidAccountIdError if it is missing."""
        if self.files is not None:
            self.files.account_path(account_id)
        elif account_id not in self.ids():
            self.load(account_id)

    def place(self, account_id: str) -> str:
        """Return where the account is configured, as text for people."""
        return str(self.files.account_path(account_id)) if self.files is not None else "its configuration"

    def read(self, account_id: str) -> LoadedAccount:
        """Read the account's files.

        Raises:
            AccountNotFoundError: The account does not exist.
            InvalidAccountIdError: The account ID is not valid."""
        if self.files is not None:
            return self.files.read_account(account_id)
        config: AccountConfig | None = None
        problems: tuple[Problem, ...] = ()
        try:
            config = self.load(account_id)
        except InvalidConfigError as error:
            problems = (Problem(account_id, None, None, str(error)),)
        layers = (Document(account_id, data={}),)
        return LoadedAccount(account_id, account_id, config, config, problems, layers, apply_defaults=True)

    def check(self, account_id: str, apply_defaults: bool = True) -> ValidationResult:
        """Check the account and return the result.

        The standard validator checks the files; a custom validator checks the configuration.

        Raises:
            AccountNotFoundError: The account does not exist.
            InvalidAccountIdError: The account ID is not valid.
        """
        if self._standard is not None:
            return self._standard.validate_account(account_id, apply_defaults)
        try:
            config = self.load(account_id, apply_defaults)
        except InvalidConfigError as error:
            if self.files is not None:
                return AccountConfigurationValidator(self.files).validate_account(account_id, apply_defaults)
            return ValidationResult(valid=False, account_id=account_id, errors=tuple(str(error).splitlines()))
        return self._verdict(account_id, config)

    def check_all(self, progress: CheckProgress | None = None) -> dict[str, ValidationResult]:
        """Check every account.

        The results include accounts and files that cannot be read.
        """
        if self._standard is not None:
            return self._standard.validate_all(progress)
        results: dict[str, ValidationResult] = {}
        if self.files is not None:
            results = AccountConfigurationValidator(self.files).validate_all()
        for account_id in self.ids():
            try:
                results[account_id] = self.check(account_id)
            except AccountNotFoundError:
                results.pop(account_id, None)  # deleted after it was listed
            else:
                report(progress, results[account_id])
        return results

    def not_read(self) -> dict[str, str]:
        """Return unread files that seem meant as account files, with reasons."""
        if self.files is None:
            return {}
        found = not_read(self.files, set(self.ids()))
        return {key: "; ".join(result.errors) for key, result in found.items()}

    def _verdict(self, account_id: str, config: AccountConfig) -> ValidationResult:
        try:
            result = self.validator.validate(config)
        except Exception as error:
            # A validator that crashed has not approved the account.
            text = f"{account_id}: its validator failed: {type(error).__name__}: {error}"
            return ValidationResult(valid=False, account_id=account_id, errors=(text,))
        if not result.valid and not result.errors:
            text = f"{account_id}: its validator rejected the account without a reason"
            return result.model_copy(update={"errors": (text,)})
        return result


class KnownAccounts:
    """Existence checks for accounts, used to reject misspelt account IDs."""

    def __init__(self, configs: AccountConfigs) -> None:
        self._accounts = Accounts(configs)

    def has(self, account_id: str) -> bool:
        """Return whether the account exists; also True if that is unknown now."""
        try:
            self._accounts.require(account_id)
        except (AccountNotFoundError, InvalidAccountIdError):
            return False
        except Exception:
            return True  # a custom configuration service may raise anything
        return True

    def any(self) -> bool:
        """Return whether any account exists; False if that is unknown now."""
        try:
            return bool(self._accounts.ids())
        except Exception:
            return False


def _reads_files(configs: AccountConfigs) -> TypeGuard[ConfigurationService]:
    """Return whether `configs` reads files with `ConfigurationService` itself.

    A subclass that overrides reading may return something else than the files.
    """
    return isinstance(configs, ConfigurationService) and all(
        getattr(type(configs), name) is getattr(ConfigurationService, name)
        for name in ("load_account_config", "list_accounts")
    )


def _is_standard(validator: Validator) -> TypeGuard[AccountConfigurationValidator]:
    return (
        isinstance(validator, AccountConfigurationValidator)
        and type(validator).validate is AccountConfigurationValidator.validate
        and "validate" not in vars(validator)
    )
