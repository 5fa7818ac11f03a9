"""Versions of the account files in Redis.

    manager:config:versions    hash: version → JSON (hash, by, time, message, files: path → text)
    manager:config:current     `<version> <hash>` of the current version

The files hold references to credentials, never credentials. A version contains all files and is never
changed. A rollback pushes an old version's files as a new version.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from manager.errors import ConfigChangedError, NoConfigVersionError
from manager.fleet.redis_client import open_client, translated

VERSIONS_KEY: Final = "manager:config:versions"
CURRENT_KEY: Final = "manager:config:current"
#: Versions that Redis keeps.
_KEPT: Final = 50

#: Pushes a version; returns {1, new version}, or {0, current version} if that is not the expected one.
#: KEYS: versions, current. ARGV: expected current version (0: none), hash, version (JSON), how many to keep.
_PUSH: Final = """
local current = tonumber(string.match(redis.call('GET', KEYS[2]) or '0', '^%d+')) or 0
if current ~= tonumber(ARGV[1]) then return {0, current} end
local newest = 0
for _, version in ipairs(redis.call('HKEYS', KEYS[1])) do
  newest = math.max(newest, tonumber(version) or 0)
end
newest = newest + 1
redis.call('HSET', KEYS[1], string.format('%d', newest), ARGV[3])
redis.call('HDEL', KEYS[1], string.format('%d', newest - tonumber(ARGV[4])))
redis.call('SET', KEYS[2], string.format('%d', newest) .. ' ' .. ARGV[2])
return {1, newest}
"""


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One version of all account files."""

    version: int
    hash: str
    by: str
    time: datetime
    message: str
    #: `defaults.yaml`, `accounts/<id>.yaml` → text.
    files: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "hash": self.hash,
            "by": self.by,
            "time": self.time.isoformat(),
            "message": self.message,
            "files": len(self.files),
        }


class ConfigStore:
    """Reads and pushes versions of the account files.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._push = self._client.register_script(_PUSH)

    def close(self) -> None:
        self._client.close()

    def current(self) -> tuple[int, str] | None:
        """Return the current version and its hash; None if none was ever pushed."""
        with translated(self._url):
            raw = self._client.get(CURRENT_KEY)
        version, _, digest = (raw or b"").decode(errors="replace").partition(" ")
        return (int(version), digest) if version.isdecimal() else None

    def read(self, version: int) -> ConfigVersion:
        """Return one version. Raises NoConfigVersionError."""
        with translated(self._url):
            raw = self._client.hget(VERSIONS_KEY, str(version))
        found = _read(version, raw) if raw is not None else None
        if found is None:
            raise NoConfigVersionError(
                f"no version {version} of the configuration: Redis keeps the last {_KEPT}; "
                "see `manager config history`"
            )
        return found

    def history(self) -> list[ConfigVersion]:
        """Return every version that Redis keeps, newest first."""
        with translated(self._url):
            raw = self._client.hgetall(VERSIONS_KEY)
        found = [_read(int(key), value) for key, value in raw.items() if key.isdigit()]
        return sorted((one for one in found if one is not None), key=lambda one: -one.version)

    def push(self, files: Mapping[str, str], *, replaces: int, by: str, message: str) -> int:
        """Push these files as the new current version; return its number.

        Raises ConfigChangedError if the current version is not `replaces` (0: none).
        """
        with translated(self._url):
            seconds, _ = self._client.time()
            digest = content_hash(files)
            data = {"hash": digest, "by": by, "time": seconds, "message": message, "files": dict(files)}
            done, version = self._push(
                keys=[VERSIONS_KEY, CURRENT_KEY], args=[replaces, digest, json.dumps(data), _KEPT]
            )
        if not done:
            raise ConfigChangedError(
                f"version {version} was pushed meanwhile: check `manager config diff`, then push again"
            )
        return int(version)

    def roll_back(self, version: int, by: str) -> int:
        """Push an old version's files as a new version; return its number.

        Raises:
            NoConfigVersionError: Redis does not have `version`.
            ConfigChangedError: another version was pushed meanwhile.
        """
        old = self.read(version)
        now = self.current()
        return self.push(
            old.files, replaces=now[0] if now else 0, by=by, message=f"rolled back to version {version}"
        )


def content_hash(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of the files' paths and texts, in hexadecimal."""
    digest = hashlib.sha256()
    for path, text in sorted(files.items()):
        for part in (path.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _read(version: int, raw: bytes) -> ConfigVersion | None:
    try:
        data = json.loads(raw)
        files = {str(path): str(text) for path, text in data["files"].items()}
        when = datetime.fromtimestamp(float(data["time"]), UTC)
        found = ConfigVersion(
            version, str(data["hash"]), str(data["by"]), when, str(data.get("message", "")), files
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if content_hash(files) == found.hash else None
