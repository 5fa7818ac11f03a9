"""Checks of `manager doctor`: Redis, hosts, clocks, accounts, disk."""

from manager.doctor.accounts import file_gone
from manager.doctor.check import CODES, Check, Outcome
from manager.doctor.run import run_checks

__all__ = ["CODES", "Check", "Outcome", "file_gone", "run_checks"]
