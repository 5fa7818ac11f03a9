"""Account configurations in memory, for tests of services."""

from collections.abc import Mapping
from typing import Any, Final

from manager.config import AccountConfig
from manager.config.document import Document
from manager.config.loaded import Defaults, load
from manager.config.merge import merge
from manager.config.models import BUILT_IN
from manager.errors import AccountNotFoundError, InvalidConfigError
from manager.gateways import runs_programs

#: Defaults that make an account id alone a valid account.
_DEFAULTS: Final[Mapping[str, Any]] = {
    **BUILT_IN,
    "gateway": "paper",
    "server": "Fake-1",
    "password": "literal",
    "currencies": [{"symbol": "EURUSD"}],
}


class MemoryConfigs:
    """Account configurations in memory: account id → the keys of its file.

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
            InvalidConfigError: A key or value is invalid; the text names every one.
        """
        if account_id not in self.accounts:
            known = ", ".join(self.list_accounts()) or "none"
            raise AccountNotFoundError(f"no account {account_id}: known are {known}")
        login = {} if runs_programs(self.accounts[account_id].get("gateway")) else {"login": account_id}
        defaults = Defaults(Document("defaults", data={}), {**_DEFAULTS, **login} if apply_defaults else {})
        document = Document(account_id, data=merge({}, self.accounts[account_id]))
        loaded = load(account_id, document, defaults)
        if loaded.config is None:
            raise InvalidConfigError("\n".join(map(str, loaded.problems)))
        return loaded.config
