"""Validation of account configurations."""

from manager.validation.accounts import AccountConfigs, Accounts, Validator
from manager.validation.findings import Finding
from manager.validation.orders import OrderBook
from manager.validation.rules import Surroundings
from manager.validation.validator import AccountConfigurationValidator

__all__ = [
    "AccountConfigs",
    "AccountConfigurationValidator",
    "Accounts",
    "Finding",
    "OrderBook",
    "Surroundings",
    "Validator",
]
