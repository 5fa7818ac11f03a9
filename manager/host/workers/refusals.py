"""Errors of a host's pool for what it does not have."""

from manager.errors import NotSupportedError, NoWorkerError


def no_worker(account_id: str) -> NoWorkerError:
    return NoWorkerError(f"{account_id} has no worker here: nothing to stop")


def no_fleet(what: str) -> NotSupportedError:
    return NotSupportedError(f"this pool {what} with the service that sends commands through Redis")
