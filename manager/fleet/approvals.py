"""Approvals of changed account files, in Redis.

    manager:approvals    hash: account id → JSON (version, by, at)

An approval is for one version of the account's configuration. The account's host removes it once it runs that
version.
"""

import json
from typing import Any, Final

from manager.fleet.parsing import json_object
from manager.fleet.redis_client import open_client, translated

APPROVALS_KEY: Final = "manager:approvals"

#: Characters of an approval that are kept.
_MAX_BY: Final = 200


class ApprovalStore:
    """Reads and writes approvals.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)

    def close(self) -> None:
        self._client.close()

    def versions(self) -> dict[str, str]:
        """Return the approved version of each account that has an approval."""
        with translated(self._url):
            raw = self._client.hgetall(APPROVALS_KEY)
        found: dict[str, str] = {}
        for key, value in raw.items():
            version = (json_object(value) or {}).get("version")
            if isinstance(version, str):
                found[key.decode(errors="replace")] = version
        return found

    def approve(self, account_id: str, version: str, *, by: str) -> None:
        """Approve a version of the account's configuration; it replaces an earlier approval."""
        with translated(self._url):
            seconds, _ = self._client.time()
            text = json.dumps({"version": version, "by": by[:_MAX_BY], "at": seconds})
            self._client.hset(APPROVALS_KEY, account_id, text)

    def remove(self, account_id: str) -> None:
        """Remove the account's approval."""
        with translated(self._url):
            self._client.hdel(APPROVALS_KEY, account_id)
