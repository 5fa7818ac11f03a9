"""Names of tasks, queues and headers (wire contract). A leaf."""

from typing import Final

START_WORKER: Final = "tasks.start_worker"
STOP_WORKER: Final = "tasks.stop_worker"
RESTART_WORKER: Final = "tasks.restart_worker"
VALIDATE_CONFIG: Final = "tasks.validate_config"
VALIDATE_CONFIGS: Final = "tasks.validate_configs"
GET_WORKER_INFO: Final = "tasks.get_worker_info"
START_ALL: Final = "tasks.start_all_enabled_workers"
RESTART_ALL: Final = "tasks.restart_all_workers"
STOP_ALL: Final = "tasks.stop_all_workers"
VALIDATE_ALL: Final = "tasks.validate_all_configs"
SELF_TEST: Final = "tasks.self_test"
TIDY: Final = "tasks.tidy"

#: Header with the caller, if the sender knows more than Celery does.
BY_HEADER: Final = "manager_by"
#: Header with the sender's version of this software. A plain Celery caller sends none and is accepted.
VERSION_HEADER: Final = "manager_version"
#: Header with the generation that the command got when its desired state was written.
GENERATION_HEADER: Final = "manager_generation"

#: Every host agent listens here, for callers that do not know the hosts.
SHARED_QUEUE: Final = "celery"

_HOST_QUEUE_PREFIX: Final = "host."


def host_queue(host: str) -> str:
    """Return the name of this host's queue; only its agent reads from it."""
    return f"{_HOST_QUEUE_PREFIX}{host}"


def host_of_queue(queue: str) -> str | None:
    """Return the host of a queue, or None for a shared queue."""
    return queue.removeprefix(_HOST_QUEUE_PREFIX) if queue.startswith(_HOST_QUEUE_PREFIX) else None
