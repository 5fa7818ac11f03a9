"""Account files: models, merging, provenance, credentials and service."""

from manager.config.credentials import scheme_of
from manager.config.ids import id_problem
from manager.config.loaded import LoadedAccount, Origin
from manager.config.models import (
    AccountConfig,
    CurrencyConfiguration,
    ExecutionConfig,
    GlobalDefaults,
    HealthConfig,
    PositionManagementConfig,
    ReadyConfig,
    RecoveryConfig,
    RiskConfig,
    StopConfig,
    StrategyConfig,
    config_version,
)
from manager.config.problems import Place, Problem
from manager.config.references import Literal, Resolved, literals
from manager.config.references import watch as watch_secrets
from manager.config.service import ConfigurationService, Logins
from manager.config.unknown_keys import suggestion

__all__ = [
    "AccountConfig",
    "ConfigurationService",
    "CurrencyConfiguration",
    "ExecutionConfig",
    "GlobalDefaults",
    "HealthConfig",
    "Literal",
    "LoadedAccount",
    "Logins",
    "Origin",
    "Place",
    "PositionManagementConfig",
    "Problem",
    "ReadyConfig",
    "RecoveryConfig",
    "Resolved",
    "RiskConfig",
    "StopConfig",
    "StrategyConfig",
    "config_version",
    "id_problem",
    "literals",
    "scheme_of",
    "suggestion",
    "watch_secrets",
]
