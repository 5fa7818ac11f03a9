"""The rights of each kind of Redis user, as ACL rules (Redis 7 or later).

The rules were found by running every command and reading `ACL LOG`; tests/e2e/test_secure.py repeats that.
docs/explanation/security.md says what these rights still allow.
"""

from typing import Final

#: kombu uses four lists for the priorities of a queue: its name, and its name with this separator and a
#: number.
_STEP: Final = "\x06\x16"

#: All commands except those that administer Redis, scan the whole keyspace, or change how Redis works.
_COMMANDS: Final = (
    "+@all -@admin -@dangerous -script|flush -script|kill -function -scan -randomkey -dbsize -select "
    "-xgroup -xclaim -xautoclaim -xreadgroup +info"
)

#: Redis allows a pattern subscription only if the ACL contains exactly that pattern, even if a wider one
#: matches.
_BROADCASTS: Final = ("/0.celery*", "/0.celery.pidbox", "/0.celeryev/*")
#: Celery publishes task results and saved groups on these channels.
_CELERY_CHANNELS: Final = ("celery-task-meta-*", "celery-taskset-meta-*", *_BROADCASTS)
#: Queues from which services take callbacks of chords and links. Host agents send these callbacks, so a queue
#: name outside this pattern would need an additional right for every host.
_CALLBACKS: Final = "callback.*"


def manager_rights() -> list[str]:
    """Return the rights of managers: all keys of the fleet, no administration."""
    # `unacked*` is for Celery workers of services, which take callbacks; host agents do not read these keys.
    keys = ("manager:*", "celery*", "host.*", _CALLBACKS, "unacked*", "_kombu.binding*", "*.celery.pidbox*")
    return [*_keys("RW", keys), *_channels(_CELERY_CHANNELS), *_COMMANDS.split(), "+scan", "+script|kill"]


def api_rights() -> list[str]:
    """Return the rights of the HTTP API: those of a manager, which include its own keys (`manager:api:*`)."""
    return manager_rights()


def recorder_rights() -> list[str]:
    """Return the rights of the recorder of history: those of a reader."""
    return reader_rights()


def notifier_rights() -> list[str]:
    """Return the rights of the notifier: those of a reader, and its own keys."""
    return [*reader_rights(), "(+@all -@admin -@dangerous %RW~manager:notify:*)"]


def host_rights(host: str) -> list[str]:
    """Return the rights of one host's agent and workers.

    They write the host's own records and what all hosts share.
    """
    own = (f"manager:host:{host}:*", f"host.{host}", f"host.{host}{_STEP}*", f"agent@{host}.celery.pidbox*")
    shared = (
        *("manager:desired", "manager:desired:*", "manager:seen:*"),
        *("manager:events:id", "manager:said:*"),
        *("manager:lease:*", "manager:epoch", "manager:fleet"),
        *("manager:batch:*", "manager:batches"),
        *("manager:rollout:*", "manager:rollouts", "manager:rollouts:active"),
        *("celery", f"celery{_STEP}*", "celery-task-meta-*", "_kombu.binding*"),
        # The host that ends the last task of a chord counts the tasks and reads their results.
        "celery-taskset-meta-*",
    )
    seen = (
        *("manager:hosts", "manager:config:*", "manager:overrides", "manager:approvals"),
        *("manager:host:*:agent", "manager:host:*:workers", "manager:host:*:beats", "manager:host:*:drain"),
    )
    # Each selector allows one command that adds to a key. A general right to write would also allow deletion.
    # A user that may add to a stream may also trim it, so only events are a stream, and the audit trail uses
    # lists.
    added = (
        "(+sadd %W~manager:hosts %W~manager:audit:hosts)",
        f"(+rpush %W~manager:audit:host:{host})",
        "(+xadd %W~manager:events)",
        # An override that has ended, and an approval that was used, are removed by their account's host.
        "(+hdel %W~manager:overrides %W~manager:approvals)",
        "(+rpush +expire %W~manager:host:*:nudges)",
        # kombu reads the length of a queue before it sends to it.
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
    """Return the rights of readers: `ps`, `hosts`, `events`, `info`, `batch`, `audit`.

    Readers cannot send commands.
    """
    keys = ("manager:*", "celery-task-meta-*")
    # Redis applies the rules one after the other: @connection includes commands that end or pause other
    # clients.
    allowed = (
        "-@all +@read +@connection -@admin -@dangerous -scan -randomkey -dbsize -select "
        "+time +info +multi +exec +discard"
    )
    return [*_keys("R", keys), *allowed.split()]


def flower_rights() -> list[str]:
    """Return the rights of Flower: events, queue lengths, replies of agents.

    Flower cannot send a task. It needs the right to broadcast to agents, but agents ignore broadcasts that
    would change something.
    """
    queues = ("celery", f"celery{_STEP}*", "host.*", "celery-task-meta-*")
    own = ("_kombu.binding*celeryev*", "_kombu.binding*pidbox*", "_kombu.binding_deadlines", "celeryev*")
    return [
        *_keys("R", queues),
        *_keys("RW", (*own, "*.reply.celery.pidbox*")),
        # No channels of results: a waiting caller would accept a forged result.
        *_channels(_BROADCASTS),
        *_COMMANDS.split(),
    ]


def _keys(how: str, patterns: tuple[str, ...]) -> list[str]:
    return [f"%{how}~{pattern}" for pattern in patterns]


def _channels(patterns: tuple[str, ...]) -> list[str]:
    return [f"&{pattern}" for pattern in patterns]
