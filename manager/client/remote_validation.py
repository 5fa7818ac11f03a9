"""Validates accounts on the hosts that would run them."""

from collections.abc import Iterable, Mapping
from typing import Final

from manager import wire
from manager.client.commands import error_text, unchecked
from manager.client.results import TaskResults
from manager.client.sender import Sender
from manager.config.check_progress import ASKED, DONE, FAILED
from manager.fleet import FleetStore
from manager.models import ValidationResult
from manager.placement.engine import Needs
from manager.pool.protocol import Progress
from manager.versions import at_least

#: Accounts that one task validates.
_VALIDATED_PER_TASK: Final = 500


class RemoteValidation:
    """Sends accounts to hosts for validation, and collects the results."""

    def __init__(self, store: FleetStore, results: TaskResults, sender: Sender) -> None:
        self._store = store
        self._results = results
        self._sender = sender

    def validate(
        self, needs: Mapping[str, Needs], timeout: float, progress: Progress | None = None
    ) -> dict[str, tuple[str, ValidationResult]]:
        """Return account id → (host, result).

        Waits at most `timeout` seconds; an account without an answer is reported as unchecked. `progress` is
        called with each account that a host is asked to check, and with its outcome. Raises
        HostUnavailableError if no host is live.
        """
        hosts, workers = self._store.snapshot(None)
        if not any(host.live for host in hosts):
            raise self._sender.no_live_host()
        account_hosts = self._sender.account_hosts(workers, list(needs))
        view = self._sender.fleet_view(hosts)
        by_host: dict[str, list[str]] = {}
        found: dict[str, tuple[str, ValidationResult]] = {}
        for account_id, required in needs.items():
            placement = view.place(required, account_hosts.get(account_id, ("", False))[0] or None)
            if placement.host is None:
                found[account_id] = ("", unchecked(account_id, placement.explain()))
            else:
                by_host.setdefault(placement.host, []).append(account_id)
        tasks: dict[str, tuple[str, list[str]]] = {}
        old = {host.name for host in hosts if not at_least(host.report.version, "0.2")}
        with self._results.translated():
            for host, account_ids in by_host.items():
                if host in old:  # its version validates one account per task
                    tasks |= {
                        self._sender.send(wire.VALIDATE_CONFIG, one, host): (host, [one])
                        for one in account_ids
                    }
                    continue
                for first in range(0, len(account_ids), _VALIDATED_PER_TASK):
                    some = account_ids[first : first + _VALIDATED_PER_TASK]
                    tasks[self._sender.send(wire.VALIDATE_CONFIGS, some, host)] = (host, some)
            _report(progress, [(one, ASKED) for _, some in tasks.values() for one in some])
            for task_id, answer in self._results.collect(set(tasks), timeout):
                host, some = tasks.pop(task_id)
                for account_id in some:
                    if isinstance(answer, BaseException):
                        result = unchecked(
                            account_id, f"host {host} could not validate it: {error_text(answer)}"
                        )
                    else:
                        result = ValidationResult.from_dict(answer if host in old else answer[account_id])
                    found[account_id] = (host, result)
                    _report(progress, [(account_id, FAILED if result.has_errors else DONE)])
        for task_id, (host, some) in tasks.items():
            text = f"host {host} did not answer within {timeout:g} s (task {task_id})"
            found |= {account_id: (host, unchecked(account_id, text)) for account_id in some}
        return found


def _report(progress: Progress | None, stages: Iterable[tuple[str, str]]) -> None:
    if progress is not None:
        for account_id, stage in stages:
            progress(account_id, stage)
