"""Validation of account configurations."""

from manager.config.findings import Finding
from manager.validation.accounts import AccountConfigs, Accounts, KnownAccounts, Validator
from manager.validation.rules import ValidationContext
from manager.validation.validator import AccountConfigurationValidator

__all__ = [
    "AccountConfigs",
    "AccountConfigurationValidator",
    "Accounts",
    "Finding",
    "KnownAccounts",
    "ValidationContext",
    "Validator",
]
