"""Placement: chooses the host on which an account runs.

Among the hosts that no rule refuses, the account's pin (`host`) wins, then the host where it is or ran last,
then the host with the most room. The result depends only on the given hosts and accounts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from manager.placement.labels import missing_labels
from manager.versions import __version__, apart, work_together

#: Megabytes that placement reserves for a built-in worker. Measured: 8 to 16 after a full garbage collection.
WORKER_MB: Final = 16
#: Fraction of a host's memory that workers may reserve. The rest is for the system and the agent.
_RESERVABLE: Final = 0.9
#: Memory of a host that does not report it.
_UNKNOWN_MB: Final = 1 << 30

_PINNED: Final = "the account's file pins it to host"

EGRESS_IP: Final = "egress_ip"
SERVER: Final = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """An account's requirements on its host."""

    account_id: str
    #: The one host that may run it; None: any.
    pin: str | None = None
    #: Labels that the host must have, `name` or `name=value`.
    requires: tuple[str, ...] = ()
    memory_mb: int = WORKER_MB
    #: Gateway and server, to which `avoid` refers; empty for an account without a server.
    server: str = ""
    #: `server`: no other account of the same server on its host. `egress_ip`: none behind the same public
    #: address.
    avoid: frozenset[str] = frozenset()
    #: Groups and labels by which commands select the account, also when its file is gone. None: not recorded.
    groups: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """Return what other processes must know once the account is placed.

        Redis holds this for every account, so it contains no default values.
        """
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
        """Parse a record; malformed fields get their default values."""
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
    """A host's properties for placement."""

    name: str
    live: bool = True
    draining: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Maximum number of workers; 0: as many as memory allows.
    capacity: int = 0
    memory_mb: int = _UNKNOWN_MB
    #: Memory that is free at this moment.
    available_mb: int = _UNKNOWN_MB
    #: The agent's version.
    version: str = __version__

    @property
    def compatible(self) -> bool:
        """Whether its agent's version works with this process's."""
        return work_together(self.version, __version__)

    @property
    def egress_ip(self) -> str:
        """The public address.

        A host that does not report one shares it with no other host.
        """
        return self.labels.get(EGRESS_IP) or f"host:{self.name}"

    @property
    def size(self) -> int:
        """Number of workers that fit on it, to compare hosts by."""
        return self.capacity or max(1, int(self.memory_mb * _RESERVABLE) // WORKER_MB)


@dataclass(frozen=True, slots=True)
class Placement:
    """The host chosen for an account, or the reasons against each host."""

    account_id: str
    #: None: no host fits.
    host: str | None
    reason: str
    #: Host → the rule that refused it. Hosts that also fit are missing.
    refused: Mapping[str, str]

    def explain(self) -> str:
        """Return in one line why this host was chosen, or why none was."""
        if self.host is not None:
            return f"{self.account_id}: host {self.host}, {self.reason}"
        return f"{self.account_id}: {self.rejection()}"

    def rejection(self) -> str:
        """Return why no host was chosen."""
        # For a pinned account, the refusals of the other hosts are noise.
        shown = {
            host: why for host, why in self.refused.items() if not why.startswith(_PINNED)
        } or self.refused
        hosts = "; ".join(f"{host}: {why}" for host, why in sorted(shown.items())) or "there is none"
        return f"no host fits ({hosts})"


class FleetView:
    """The fleet's hosts and the accounts placed on each.

    `add` and `remove` change the latter.
    """

    def __init__(self, hosts: Iterable[HostFacts]) -> None:
        self.hosts: dict[str, HostFacts] = {host.name: host for host in hosts}
        self._placed: dict[str, tuple[str, Needs]] = {}
        self._count: Counter[str] = Counter()
        self._memory: Counter[str] = Counter()
        #: (host or address, server) → number of accounts there, and of those that avoid sharing it.
        self._sharing: Counter[tuple[str, str]] = Counter()
        self._avoiding: Counter[tuple[str, str]] = Counter()

    def add(self, needs: Needs, host: str) -> None:
        """Place the account on `host` without checking the rules."""
        self.remove(needs.account_id)
        self._placed[needs.account_id] = (host, needs)
        self._count_account(host, needs, 1)

    def remove(self, account_id: str) -> None:
        """Remove the account from its host, if it has one."""
        found = self._placed.pop(account_id, None)
        if found is not None:
            self._count_account(*found, -1)

    def host_of(self, account_id: str) -> str | None:
        found = self._placed.get(account_id)
        return found[0] if found is not None else None

    def count(self, host: str) -> int:
        return self._count[host]

    def refusal(self, needs: Needs, host: str) -> str | None:
        """Return the rule by which the account may not run on `host`.

        Returns None if it may.
        """
        there = self._placed.get(needs.account_id)
        if there is None:
            return self._refusal(needs, host)
        self.remove(needs.account_id)
        try:
            return self._refusal(needs, host)
        finally:
            self.add(there[1], there[0])

    def place(self, needs: Needs, last_host: str | None = None, *, without: str | None = None) -> Placement:
        """Choose the account's host, but not `without`. Changes nothing."""
        refused = {name: why for name in self.hosts if (why := self.refusal(needs, name)) is not None}
        if without is not None:
            refused.pop(without, None)  # the account must leave it: its refusal explains nothing
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
        if not host.compatible:
            return f"{apart(host.version, __version__)} (`manager doctor`)"
        if host.draining:
            return f"it is drained (`manager resume-host {name}` ends that)"
        missing = missing_labels(host.labels, needs.requires)
        if missing:
            return f"it lacks label{'s' * (len(missing) > 1)} {', '.join(missing)}"
        if host.capacity and self._count[name] >= host.capacity:
            return f"it is full: {self._count[name]} of {host.capacity} workers"
        reserved, reservable = self._memory[name], int(host.memory_mb * _RESERVABLE)
        if reserved + needs.memory_mb > host.memory_mb * _RESERVABLE:
            return f"its memory is reserved: {reserved} of {reservable} MB, {needs.memory_mb} more needed"
        if host.available_mb < needs.memory_mb:
            return f"{host.available_mb} MB of memory are free, {needs.memory_mb} needed"
        return self._sharing_refusal(needs, host)

    def _sharing_refusal(self, needs: Needs, host: HostFacts) -> str | None:
        if not needs.server:
            return None
        for rule, place in ((SERVER, f"host:{host.name}"), (EGRESS_IP, f"ip:{host.egress_ip}")):
            key = (place, needs.server)
            if (rule in needs.avoid and self._sharing[key]) or self._avoiding[key]:
                where = "on it" if rule == SERVER else f"behind its address {host.egress_ip}"
                return f"another account of server {needs.server} is {where} (avoid_sharing: {rule})"
        return None

    def _count_account(self, host: str, needs: Needs, change: int) -> None:
        self._count[host] += change
        self._memory[host] += change * needs.memory_mb
        if not needs.server:
            return
        facts = self.hosts.get(host)
        address = facts.egress_ip if facts is not None else f"host:{host}"
        for rule, place in ((SERVER, f"host:{host}"), (EGRESS_IP, f"ip:{address}")):
            self._sharing[place, needs.server] += change
            if rule in needs.avoid:
                self._avoiding[place, needs.server] += change


def _count(value: object, otherwise: int) -> int:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _UNKNOWN_MB
    return value if isinstance(value, int) and fits else otherwise
