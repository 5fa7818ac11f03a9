"""Validation of account configurations."""

from manager.validation.orders import OrderBook
from manager.validation.rules import Finding, Surroundings
from manager.validation.validator import AccountConfigurationValidator

__all__ = ["AccountConfigurationValidator", "OrderBook", "Finding", "Surroundings"]
