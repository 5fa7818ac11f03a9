"""Which host an account runs on: one pure function over what is known of hosts and of the accounts that they have.

The order: the account's pin (`host`), then the host where it is or ran last, then the host with the most room among
those that no rule refuses. Two calls with the same facts give the same answer.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from manager.placement.labels import missing_labels
from manager.versions import __version__, apart, work_together

#: Megabytes that one of our own workers is counted with; measured 8 to 16 with a full collection.
WORKER_MB: Final = 16
#: The part of a host's memory that workers may be promised; the rest is the system's and the agent's.
_PROMISED: Final = 0.9
#: Megabytes of a host that did not say how much it has.
_UNKNOWN_MB: Final = 1 << 30

_PINNED: Final = "the account's file pins it to host"

EGRESS_IP: Final = "egress_ip"
SERVER: Final = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an account asks of its host."""

    account_id: str
    #: The one host that may run it; None: any.
    pin: str | None = None
    #: Labels that the host must have, `name` or `name=value`.
    requires: tuple[str, ...] = ()
    memory_mb: int = WORKER_MB
    #: Gateway and server: what `avoid` is about; empty for an account without a server.
    server: str = ""
    #: `server`: no other account of the same server on its host. `egress_ip`: none behind the same address.
    avoid: frozenset[str] = frozenset()
    #: By which commands select it, also when its file is gone; None: not recorded.
    groups: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """Return what others must know of it once it has its place; kept small, since it is kept for every account."""
        record: dict[str, Any] = {"server": self.server}
        if self.memory_mb != WORKER_MB:
            record["memory_mb"] = self.memory_mb
        if self.avoid:
            record["avoid"] = sorted(self.avoid)
        if self.groups is not None:
            record["groups"] = list(self.groups)
        if self.labels:
            record["labels"] = dict(self.labels)
        return record

    @classmethod
    def from_record(cls, account_id: str, data: object) -> Self:
        """Read it; what does not fit counts as not said."""
        found = data if isinstance(data, Mapping) else {}
        memory, avoid, server = found.get("memory_mb"), found.get("avoid"), found.get("server")
        groups, labels = found.get("groups"), found.get("labels")
        return cls(
            account_id=account_id,
            groups=tuple(map(str, groups)) if isinstance(groups, list | dict) else None,
            labels={str(k): str(v) for k, v in labels.items()} if isinstance(labels, Mapping) else {},
            memory_mb=_count(memory, WORKER_MB),
            server=server if isinstance(server, str) else "",
            avoid=frozenset(map(str, avoid)) if isinstance(avoid, list) else frozenset(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What placement knows of a host."""

    name: str
    live: bool = True
    draining: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Workers at most; 0: as many as memory allows.
    capacity: int = 0
    memory_mb: int = _UNKNOWN_MB
    #: Free at this moment.
    available_mb: int = _UNKNOWN_MB
    #: Of its agent.
    version: str = __version__

    @property
    def understood(self) -> bool:
        """Whether its agent and this process understand each other."""
        return work_together(self.version, __version__)

    @property
    def egress_ip(self) -> str:
        """The address that venues see; a host that does not say has one of its own."""
        return self.labels.get(EGRESS_IP) or f"host:{self.name}"

    @property
    def size(self) -> int:
        """How many workers it is good for, to compare hosts with."""
        return self.capacity or max(1, int(self.memory_mb * _PROMISED) // WORKER_MB)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an account goes, and why; every other host with the rule that refused it."""

    account_id: str
    #: None: no host fits.
    host: str | None
    reason: str
    #: Host → why not; hosts that would have fitted as well are not in it.
    refused: Mapping[str, str]

    def explain(self) -> str:
        """Say in one line why there is no host, or why it is this one."""
        if self.host is not None:
            return f"{self.account_id}: host {self.host}, {self.reason}"
        return f"{self.account_id}: {self.rejection()}"

    def rejection(self) -> str:
        """Say why there is no host."""
        # Of a pinned account one host matters.
        said = {
            host: why for host, why in self.refused.items() if not why.startswith(_PINNED)
        } or self.refused
        hosts = "; ".join(f"{host}: {why}" for host, why in sorted(said.items())) or "there is none"
        return f"no host fits ({hosts})"


class FleetView:
    """The hosts, and the accounts that each of them has or was given. `add` and `remove` keep it up to date."""

    def __init__(self, hosts: Iterable[HostFacts]) -> None:
        self.hosts: dict[str, HostFacts] = {host.name: host for host in hosts}
        self._tenants: dict[str, tuple[str, Needs]] = {}
        self._count: Counter[str] = Counter()
        self._memory: Counter[str] = Counter()
        #: (what is shared, server) → accounts there, and those of them that avoid it.
        self._there: Counter[tuple[str, str]] = Counter()
        self._avoiding: Counter[tuple[str, str]] = Counter()

    def add(self, needs: Needs, host: str) -> None:
        """Note that the account is at `host`, whether it may be or not."""
        self.remove(needs.account_id)
        self._tenants[needs.account_id] = (host, needs)
        self._note(host, needs, 1)

    def remove(self, account_id: str) -> None:
        """Note that the account is nowhere."""
        found = self._tenants.pop(account_id, None)
        if found is not None:
            self._note(*found, -1)

    def host_of(self, account_id: str) -> str | None:
        found = self._tenants.get(account_id)
        return found[0] if found is not None else None

    def count(self, host: str) -> int:
        return self._count[host]

    def refusal(self, needs: Needs, host: str) -> str | None:
        """Return the rule that keeps the account from `host`, in words; None if it may go, or stay, there."""
        there = self._tenants.get(needs.account_id)
        if there is None:
            return self._refusal(needs, host)
        self.remove(needs.account_id)
        try:
            return self._refusal(needs, host)
        finally:
            self.add(there[1], there[0])

    def place(self, needs: Needs, last_host: str | None = None, *, without: str | None = None) -> Placement:
        """Choose the account's host; `without` is one that it must leave. Changes nothing."""
        refused = {name: why for name in self.hosts if (why := self.refusal(needs, name)) is not None}
        if without is not None:
            refused.pop(without, None)  # nobody asks about that one
        pin = needs.pin
        if pin is not None and pin not in self.hosts:
            refused[pin] = "it never reported"
        fitting = [name for name in self.hosts if name not in refused and name != without]
        if not fitting:
            return Placement(needs.account_id, None, "no host fits", refused)
        if pin is not None:
            return Placement(needs.account_id, pin, "its pin (`host` in its file)", refused)
        if last_host in fitting:
            return Placement(needs.account_id, last_host, "where it is or ran last", refused)
        best = min(fitting, key=lambda name: ((self._count[name] + 1) / self.hosts[name].size, name))
        size = self.hosts[best].size
        return Placement(
            needs.account_id, best, f"the most room ({self._count[best]} of {size} places taken)", refused
        )

    def _refusal(self, needs: Needs, name: str) -> str | None:
        host = self.hosts.get(name)
        if needs.pin is not None and needs.pin != name:
            return f"{_PINNED} {needs.pin}"
        if host is None:
            return "it never reported"
        if not host.live:
            return "its agent is silent"
        if not host.understood:
            return f"{apart(host.version, __version__)} (`manager doctor`)"
        if host.draining:
            return f"it is drained (`manager resume-host {name}` ends that)"
        missing = missing_labels(host.labels, needs.requires)
        if missing:
            return f"it lacks label{'s' * (len(missing) > 1)} {', '.join(missing)}"
        if host.capacity and self._count[name] >= host.capacity:
            return f"it is full: {self._count[name]} of {host.capacity} workers"
        promised = self._memory[name]
        if promised + needs.memory_mb > host.memory_mb * _PROMISED:
            return f"its memory is promised: {promised} of {int(host.memory_mb * _PROMISED)} MB, {needs.memory_mb} more needed"
        if host.available_mb < needs.memory_mb:
            return f"{host.available_mb} MB of memory are free, {needs.memory_mb} needed"
        return self._sharing(needs, host)

    def _sharing(self, needs: Needs, host: HostFacts) -> str | None:
        if not needs.server:
            return None
        for rule, place in ((SERVER, f"host:{host.name}"), (EGRESS_IP, f"ip:{host.egress_ip}")):
            key = (place, needs.server)
            if (rule in needs.avoid and self._there[key]) or self._avoiding[key]:
                where = "on it" if rule == SERVER else f"behind its address {host.egress_ip}"
                return f"another account of server {needs.server} is {where} (avoid_sharing: {rule})"
        return None

    def _note(self, host: str, needs: Needs, change: int) -> None:
        self._count[host] += change
        self._memory[host] += change * needs.memory_mb
        if not needs.server:
            return
        facts = self.hosts.get(host)
        address = facts.egress_ip if facts is not None else f"host:{host}"
        for rule, place in ((SERVER, f"host:{host}"), (EGRESS_IP, f"ip:{address}")):
            self._there[place, needs.server] += change
            if rule in needs.avoid:
                self._avoiding[place, needs.server] += change


def _count(value: object, otherwise: int) -> int:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _UNKNOWN_MB
    return value if isinstance(value, int) and fits else otherwise
