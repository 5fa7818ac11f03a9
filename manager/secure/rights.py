"""The rights of each kind of user in Redis, as its ACL spells them (Redis 7 or later: keys to read and keys to write).

Found by running everything with `ACL LOG` at hand; tests/e2e/test_secure.py does so again. docs/explanation/security.md says what
these rights still allow.
"""

from typing import Final

#: kombu's lists for the four priorities of a queue: the name itself, then with these ends.
_STEP: Final = "\x06\x16"

#: What no user of the fleet needs: to administer, to look at everything, or to change how Redis works.
_COMMANDS: Final = (
    "+@all -@admin -@dangerous -script|flush -script|kill -function -scan -randomkey -dbsize -select -xgroup -xclaim "
    "-xautoclaim -xreadgroup +info"
)

#: Who subscribes to a pattern must have that very pattern, however wide the others are.
_BROADCASTS: Final = ("/0.celery*", "/0.celery.pidbox", "/0.celeryev/*")
#: Celery publishes what it stores: results of tasks, and saved groups.
_CELERY_CHANNELS: Final = ("celery-task-meta-*", "celery-taskset-meta-*", *_BROADCASTS)
#: Queues on which services take the callbacks of chords and links. A host agent sends those, so a name outside this
#: pattern would need a right of its own on every host.
_CALLBACKS: Final = "callback.*"


def manager_rights() -> list[str]:
    """Everything of the fleet, nothing of the server: who commands it."""
    # `unacked*` is for the workers of services, which take callbacks; host agents read nothing there.
    keys = ("manager:*", "celery*", "host.*", _CALLBACKS, "unacked*", "_kombu.binding*", "*.celery.pidbox*")
    return [*_keys("RW", keys), *_channels(_CELERY_CHANNELS), *_COMMANDS.split(), "+scan", "+script|kill"]


def host_rights(host: str) -> list[str]:
    """What one host's agent and workers need: its own records, and what hosts share."""
    own = (f"manager:host:{host}:*", f"host.{host}", f"host.{host}{_STEP}*", f"agent@{host}.celery.pidbox*")
    shared = (
        *("manager:desired", "manager:desired:*", "manager:seen:*"),
        *("manager:lease:*", "manager:epoch", "manager:fleet"),
        *("manager:batch:*", "manager:batches"),
        *("celery", f"celery{_STEP}*", "celery-task-meta-*", "_kombu.binding*"),
        # The host that ends the last task of a chord counts the others and reads their results.
        "celery-taskset-meta-*",
    )
    seen = (
        *("manager:hosts", "manager:config:*"),
        *("manager:host:*:agent", "manager:host:*:workers", "manager:host:*:beats", "manager:host:*:drain"),
    )
    # To these something is added, by one command each and nothing else. A right to write a key would be one to delete it,
    # and who may add to a stream may trim it: of streams only the events are, the audit trail is of lists.
    added = (
        "(+sadd %W~manager:hosts %W~manager:audit:hosts)",
        f"(+rpush %W~manager:audit:host:{host})",
        "(+xadd %W~manager:events)",
        "(+rpush +expire %W~manager:host:*:nudges)",
        # Before it sends to a queue, kombu asks for its length.
        f"(+lpush +llen %RW~host.* %RW~{_CALLBACKS} %RW~*.reply.celery.pidbox*)",
    )
    return [
        *_keys("RW", own),
        *_keys("RW", shared),
        *_keys("R", seen),
        *_channels(_CELERY_CHANNELS),
        *_COMMANDS.split(),
        *added,
    ]


def reader_rights() -> list[str]:
    """Looking at the fleet: `manager ps`, `hosts`, `events`, `info`, `batch`, `audit`. Commands nothing."""
    keys = ("manager:*", "celery-task-meta-*")
    # Rights count in their order: @connection has commands that end or pause others.
    allowed = (
        "-@all +@read +@connection -@admin -@dangerous -scan -randomkey -dbsize -select "
        "+time +info +multi +exec +discard"
    )
    return [*_keys("R", keys), *allowed.split()]


def flower_rights() -> list[str]:
    """What Flower shows: events, the lengths of queues, what agents say of themselves. It cannot send a task.

    It may broadcast to the agents, because it must; they obey nothing there that changes anything.
    """
    queues = ("celery", f"celery{_STEP}*", "host.*", "celery-task-meta-*")
    own = ("_kombu.binding*celeryev*", "_kombu.binding*pidbox*", "_kombu.binding_deadlines", "celeryev*")
    return [
        *_keys("R", queues),
        *_keys("RW", (*own, "*.reply.celery.pidbox*")),
        # No answers: what it says there would be believed by those who wait.
        *_channels(_BROADCASTS),
        *_COMMANDS.split(),
    ]


def _keys(how: str, patterns: tuple[str, ...]) -> list[str]:
    return [f"%{how}~{pattern}" for pattern in patterns]


def _channels(patterns: tuple[str, ...]) -> list[str]:
    return [f"&{pattern}" for pattern in patterns]
