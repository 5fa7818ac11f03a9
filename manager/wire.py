"""The names of the tasks and queues: the wire contract between managers and host agents. A leaf."""

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

#: A header that says who asked, where the sender knows more than Celery does.
BY_HEADER: Final = "manager_by"
#: A header that says which version of this software sent the task; plain Celery says none, and is taken as it is.
VERSION_HEADER: Final = "manager_version"
#: A header with the generation that the command was given when it was written down.
GENERATION_HEADER: Final = "manager_generation"

#: Every host agent listens here; for callers that know nothing of hosts.
SHARED_QUEUE: Final = "celery"

_HOST_QUEUE_PREFIX: Final = "host."


def host_queue(host: str) -> str:
    """Return the queue that only this host's agent listens to."""
    return f"{_HOST_QUEUE_PREFIX}{host}"


def host_of_queue(queue: str) -> str | None:
    """Return the host whose queue this is, or None."""
    return queue.removeprefix(_HOST_QUEUE_PREFIX) if queue.startswith(_HOST_QUEUE_PREFIX) else None
