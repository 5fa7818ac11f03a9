"""Validation of account configurations."""

from manager.validation.rules import Finding, Surroundings, rules
from manager.validation.validator import AccountConfigurationValidator

__all__ = ["AccountConfigurationValidator", "Finding", "Surroundings", "rules"]
