"""Validation of account configurations."""

from manager.validation.rules import Finding, Surroundings
from manager.validation.validator import AccountConfigurationValidator

__all__ = ["AccountConfigurationValidator", "Finding", "Surroundings"]
