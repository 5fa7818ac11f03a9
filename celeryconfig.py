"""Celery's settings for senders and host agents.

docs/decisions/002-celery-settings.md has the reasons; each is a failure of the default setting.
"""

from typing import Any

from manager import wire
from manager.fleet.pools import sentinel_options
from manager.fleet.urls import fleet_address
from manager.settings import load_settings

_settings = load_settings()

_address = fleet_address(_settings)
#: manager/fleet/celery_redis.py makes Celery, kombu and this project interpret one URL in the same way.
broker_url = result_backend = _address.url
broker_transport = "manager.fleet.celery_redis:FleetTransport"
override_backends = dict.fromkeys(
    ("redis", "rediss", "unix", "sentinel", "sentinels"), "manager.fleet.celery_redis:FleetBackend"
)
# Flower opens its connections with these settings.
broker_use_ssl = dict(_address.tls_options) if _address.tls else False
_sentinel = (
    {"master_name": _address.master, "sentinel_kwargs": sentinel_options(_address)} if _address.master else {}
)

# JSON only: unpickling a message would let anyone with access to Redis run code on a trading host.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

task_default_queue = "celery"
task_track_started = True
# Early acknowledgement and no prefetch: an agent never has unacknowledged messages, so a short connection
# loss runs no task twice and a restart of Redis does not crash the consumer.
task_acks_late = False
worker_disable_prefetch = True
worker_prefetch_multiplier = 1

# The agent owns threads and processes, which the children of Celery's prefork pool cannot.
worker_pool = "threads"
worker_concurrency = _settings.agent_threads
worker_send_task_events = True
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_remote_control = True

broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# An error reply of the server must not end an agent: it reconnects.
broker_channel_error_retry = True
broker_transport_options: dict[str, Any] = {
    # Tasks that an agent has received and not started are in its memory only. A copy in Redis would cost two
    # round trips per task, deliver tasks twice after a short connection loss, and let anyone who may write
    # there make the agents send tasks.
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
# One connection for each thread that stores a result, and one for results; a thread without one waits.
redis_max_connections = _settings.agent_threads + 32
redis_backend_health_check_interval = 10

result_expires = 86_400
result_extended = False

#: Tasks of `manager scheduler`; any host runs them. An expired one is replaced by the next.
beat_schedule: dict[str, Any] = {
    "tidy": {
        "task": wire.TIDY,
        "schedule": _settings.tidy_seconds,
        "options": {"expires": _settings.tidy_seconds},
    },
}

enable_utc = True
timezone = "UTC"
