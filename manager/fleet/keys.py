"""The Redis keys of the fleet's records.

Each host has its own keys, so that a host's ACL lets it write its own records and no other host's:

    manager:hosts                  set of host names
    manager:host:<name>:agent      the host agent's status report, written each second
    manager:host:<name>:workers    hash: account id → WorkerInfo, as the host agent recorded it last
    manager:host:<name>:drain      the host's drain request, or its end (see `DrainRequest`)
    manager:host:<name>:mark       id of the host agent's last `record`, written in the same transaction
    manager:host:<name>:claim      the agent that holds the name (see `manager.fleet.host_names`)
    manager:host:<name>:beats      hash: account id → heartbeat, as the worker itself sent it last
    manager:host:<name>:counters   hash: event type → how many the host wrote (see `manager.fleet.events`)
    manager:host:<name>:runs       stream: the runs that ended on the host (see `manager.fleet.runs`)
    manager:events                 stream of events (see `manager.fleet.events`)
    manager:desired:rules          exists once any account's desired state has an `avoid` rule
"""

from typing import Final

HOSTS_KEY: Final = "manager:hosts"
EVENTS_KEY: Final = "manager:events"
#: The scripts of `desired_scripts` write it.
RULES_KEY: Final = "manager:desired:rules"


def agent_key(host: str) -> str:
    return f"manager:host:{host}:agent"


def workers_key(host: str) -> str:
    return f"manager:host:{host}:workers"


def beats_key(host: str) -> str:
    return f"manager:host:{host}:beats"


def mark_key(host: str) -> str:
    return f"manager:host:{host}:mark"


def drain_key(host: str) -> str:
    return f"manager:host:{host}:drain"


def claim_key(host: str) -> str:
    return f"manager:host:{host}:claim"


def counters_key(host: str) -> str:
    return f"manager:host:{host}:counters"


def runs_key(host: str) -> str:
    return f"manager:host:{host}:runs"
