"""Gateways: the connections between workers and venues."""

from manager.gateways.gateway_type import GatewayType
from manager.gateways.options import GatewayOptions
from manager.gateways.registry import (
    ENTRY_POINTS,
    example_files,
    gateway_type,
    known_gateways,
    make_gateway,
    may_leave_programs,
    preloaded_modules,
    reach_problem,
    runs_programs,
    summaries,
    uses_local_venue,
)

__all__ = [
    "ENTRY_POINTS",
    "GatewayOptions",
    "GatewayType",
    "example_files",
    "gateway_type",
    "known_gateways",
    "make_gateway",
    "may_leave_programs",
    "preloaded_modules",
    "reach_problem",
    "runs_programs",
    "summaries",
    "uses_local_venue",
]
