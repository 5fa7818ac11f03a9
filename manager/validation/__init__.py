"""Validation of account configurations."""

from manager.validation.findings import Finding
from manager.validation.orders import OrderBook
from manager.validation.rules import Surroundings
from manager.validation.validator import AccountConfigurationValidator

__all__ = ["AccountConfigurationValidator", "OrderBook", "Finding", "Surroundings"]
