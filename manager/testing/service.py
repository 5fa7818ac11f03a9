"""A service over workers in memory."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manager.config import AccountConfig, ConfigurationService
from manager.placement.engine import HostFacts
from manager.pool.fake_clock import FakeClock
from manager.pool.start_requests import StartRequestFactory
from manager.pool.testing import FakePool
from manager.service import WorkerManagerService
from manager.testing.memory_configs import MemoryConfigs
from manager.validation import AccountConfigs, AccountConfigurationValidator, Finding, Validator


class _WithoutCredentials(AccountConfigurationValidator):
    """The manager's rules except those about credentials: no session logs in."""

    def _credential_findings(self, config: AccountConfig) -> list[Finding]:
        del config
        return []


def fake_service(
    accounts: Iterable[str] | Mapping[str, Mapping[str, Any]] | Path,
    *,
    hosts: Sequence[str | HostFacts] = ("fake-host",),
    clock: FakeClock | None = None,
    validator: Validator | None = None,
) -> WorkerManagerService:
    """Return a service whose workers live in memory.

    Its `worker_pool` is a FakePool. `accounts` are account ids, or account ids with the keys of their files,
    or a configuration directory. Keys that an account leaves out get values that make it a valid account of
    gateway `paper`. Without a `validator` the manager's rules apply, but credentials are not resolved. Starts
    no process and opens no connection.
    """
    configs: AccountConfigs
    if isinstance(accounts, Path):
        configs = ConfigurationService(accounts)
    elif isinstance(accounts, Mapping):
        configs = MemoryConfigs(accounts)
    else:
        configs = MemoryConfigs({account_id: {} for account_id in accounts})
    if validator is None:
        validator = _WithoutCredentials(configs if isinstance(configs, ConfigurationService) else None)
    requests = StartRequestFactory(configs, validator)
    pool = FakePool(hosts=hosts, clock=clock, request_for=requests.start_request)
    return WorkerManagerService(configs, pool, validator)
