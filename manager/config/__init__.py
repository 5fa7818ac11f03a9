"""Accounts on disk: models, merging, provenance, credentials, and the service over them."""

from manager.config.loaded import LoadedAccount, Origin, suggestion
from manager.config.models import (
    AccountConfig,
    CurrencyConfiguration,
    ExecutionConfig,
    GlobalDefaults,
    PositionManagementConfig,
    ReadyConfig,
    RiskConfig,
    StopConfig,
    StrategyConfig,
    config_version,
)
from manager.config.problems import Place, Problem
from manager.config.service import ConfigurationService, Logins

__all__ = [
    "AccountConfig",
    "ConfigurationService",
    "CurrencyConfiguration",
    "ExecutionConfig",
    "GlobalDefaults",
    "LoadedAccount",
    "Logins",
    "Origin",
    "Place",
    "PositionManagementConfig",
    "Problem",
    "ReadyConfig",
    "RiskConfig",
    "StopConfig",
    "StrategyConfig",
    "config_version",
    "suggestion",
]
