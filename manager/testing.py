"""A service over workers in memory, for tests of your own service: no Redis, no Celery, no process."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from manager.config import AccountConfig, ConfigurationService
from manager.config.document import Document
from manager.config.loaded import Defaults, load
from manager.config.merge import merge
from manager.config.models import BUILT_IN
from manager.errors import AccountNotFoundError, InvalidConfigError
from manager.gateways import runs_programs
from manager.placement.engine import HostFacts
from manager.pool.contract import METADATA_KEYS, PoolCase, WorkerPoolContract
from manager.pool.fake_clock import FakeClock
from manager.pool.start_requests import StartRequestFactory
from manager.pool.testing import FakeEvent, FakePool
from manager.service import WorkerManagerService
from manager.validation import AccountConfigs, AccountConfigurationValidator, Finding, Validator

#: What lies beneath an account that names less, so that an account id alone makes a valid account.
_BENEATH: Final[Mapping[str, Any]] = {
    **BUILT_IN,
    "gateway": "paper",
    "server": "Fake-1",
    "password": "literal",
    "currencies": [{"symbol": "EURUSD"}],
}


class MemoryConfigs:
    """Account configurations in memory: id → the keys that its file would have.

    A test may change `accounts` at any time.
    """

    def __init__(self, accounts: Mapping[str, Mapping[str, Any]]) -> None:
        self.accounts: dict[str, dict[str, Any]] = {key: dict(value) for key, value in accounts.items()}

    def list_accounts(self) -> list[str]:
        """Return the ids of all accounts."""
        return sorted(self.accounts)

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """Return the account's configuration.

        Raises:
            AccountNotFoundError: There is no such account.
            InvalidConfigError: A key has a wrong name or a value of the wrong kind; the text names every one.
        """
        if account_id not in self.accounts:
            known = ", ".join(self.list_accounts()) or "none"
            raise AccountNotFoundError(f"no account {account_id}: known are {known}")
        login = {} if runs_programs(self.accounts[account_id].get("gateway")) else {"login": account_id}
        beneath = Defaults(Document("defaults", data={}), {**_BENEATH, **login} if apply_defaults else {})
        document = Document(account_id, data=merge({}, self.accounts[account_id]))
        loaded = load(account_id, document, beneath)
        if loaded.config is None:
            raise InvalidConfigError("\n".join(map(str, loaded.problems)))
        return loaded.config


class _WithoutCredentials(AccountConfigurationValidator):
    """The manager's own rules without those about credentials: nothing logs in here."""

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
    """Return a service whose workers live in memory; its `worker_pool` is the FakePool.

    `accounts` are account ids, or account ids with the keys of their files (what they leave out makes a valid
    account of gateway `paper`), or a configuration directory. Without a `validator` the manager's own rules
    apply, but credentials are not looked up. Starts no process and connects to nothing.
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


__all__ = [
    "METADATA_KEYS",
    "FakeClock",
    "FakeEvent",
    "FakePool",
    "MemoryConfigs",
    "PoolCase",
    "WorkerPoolContract",
    "fake_service",
]
