"""JSON values that Redis stamps with its own clock.

Only Redis's clock judges freshness: it stamps each write and dates each read. Hosts whose clocks differ by an
hour therefore agree on how old a heartbeat is.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.parsing import json_object

#: KEYS: key. ARGV: hash field ('': the key is a string), payload. Stores `<seconds of Redis's clock>
#: <payload>`. For a string, returns the value before.
STAMPED_WRITE: Final = """
local t = redis.call('TIME')
local value = string.format('%d.%06d %s', t[1], t[2], ARGV[2])
if ARGV[1] == '' then return redis.call('GETSET', KEYS[1], value) end
redis.call('HSET', KEYS[1], ARGV[1], value)
return 1
"""


@dataclass(frozen=True, slots=True)
class Timestamped:
    """A JSON object and its age by Redis's clock."""

    age_seconds: float
    data: dict[str, Any]
    #: Seconds since the epoch, by Redis's clock.
    stamp: float = 0.0


def parse_timestamped(raw: bytes | None, now: float) -> Timestamped | None:
    """Parse a value that `STAMPED_WRITE` wrote.

    Returns None if it is missing or malformed. `now` is Redis's clock in seconds since the epoch.
    """
    if raw is None:
        return None
    stamp, _, payload = raw.partition(b" ")
    data = json_object(payload)
    try:
        written = float(stamp)
    except ValueError:
        return None
    if data is None or not math.isfinite(written):
        return None
    # A stamp in the future, as after a clock was set back, must not count as fresh either.
    return Timestamped(abs(now - written), data, written)


def clock_seconds(answer: tuple[int, int]) -> float:
    """Return the answer of Redis's TIME in seconds since the epoch."""
    return answer[0] + answer[1] / 1e6
