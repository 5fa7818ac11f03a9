"""Celery's settings, one file, read by the senders and by the host agents.

The reasons are in docs/decisions/002-celery-settings.md; each was found by breaking the default.
"""

from typing import Any

from manager import wire
from manager.fleet.pools import sentinel_options
from manager.fleet.urls import fleet_address
from manager.settings import load_settings

_settings = load_settings()

_address = fleet_address(_settings)
#: Celery, kombu and this project read one URL in one way: manager/fleet/celery_redis.py.
broker_url = result_backend = _address.url
broker_transport = "manager.fleet.celery_redis:FleetTransport"
override_backends = dict.fromkeys(
    ("redis", "rediss", "unix", "sentinel", "sentinels"), "manager.fleet.celery_redis:FleetBackend"
)
# Flower makes connections of its own from these.
broker_use_ssl = dict(_address.tls_options) if _address.tls else False
_sentinel = (
    {"master_name": _address.master, "sentinel_kwargs": sentinel_options(_address)} if _address.master else {}
)

# JSON only: a pickle from somebody who reaches Redis would be code that runs on a trading host.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

task_default_queue = "celery"
task_track_started = True
# Early acknowledgement and no prefetch: nothing is ever unacknowledged in an agent, so a blip of the connection
# runs nothing twice and a restart of Redis does not crash the consumer.
task_acks_late = False
worker_disable_prefetch = True
worker_prefetch_multiplier = 1

# The agent owns threads and processes, which prefork children may not.
worker_pool = "threads"
worker_concurrency = _settings.agent_threads
worker_send_task_events = True
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_remote_control = True

broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# What a server says that is no outage either must not end an agent: it begins again with a new connection.
broker_channel_error_retry = True
broker_transport_options: dict[str, Any] = {
    # What an agent has taken and not begun lies in its memory alone: kept in Redis as well, it costs two round trips a task,
    # comes a second time when a connection blips, and lets whoever may write there have tasks sent by the agents.
    "ack_emulation": False,
    "socket_connect_timeout": 3,
    "socket_timeout": 10,
    "socket_keepalive": True,
    "health_check_interval": 10,
    **_sentinel,
}

_fail_fast = {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
task_publish_retry = True
task_publish_retry_policy = _fail_fast
result_backend_transport_options: dict[str, Any] = {"retry_policy": _fail_fast}
result_backend_thread_safe = True
redis_socket_timeout = 10.0
redis_socket_connect_timeout = 3.0
redis_socket_keepalive = True
# Each thread that stores a result uses one, and one listens for answers; a thread that finds none free waits.
redis_max_connections = _settings.agent_threads + 32
redis_backend_health_check_interval = 10

result_expires = 86_400
result_extended = False

#: What `manager scheduler` sends, to whichever host comes first; what is late is sent anew soon.
beat_schedule: dict[str, Any] = {
    "tidy": {
        "task": wire.TIDY,
        "schedule": _settings.tidy_seconds,
        "options": {"expires": _settings.tidy_seconds},
    },
}

enable_utc = True
timezone = "UTC"
