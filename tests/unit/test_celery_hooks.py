"""The hooks of Celery and kombu that this project overrides, private ones too.

A release that drops or renames one of them would not fail: the override would never be called, and the agent
would silently lose its effect (the fleet's own connections, the check of every message).
"""

import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest
from celery.backends.redis import RedisBackend
from celery.worker import control
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from packaging.requirements import Requirement

from manager.fleet.celery_redis import FleetBackend, FleetChannel, FleetTransport
from tasks.consumer import CheckedConsumer, CheckedRequest, _checked_transport

ROOT = Path(__file__).resolve().parents[2]

Channel, Transport = redis_transport.Channel, redis_transport.Transport

#: Ours → (theirs, methods of theirs that ours overrides or calls → their parameters).
HOOKS: list[tuple[type, type, dict[str, str]]] = [
    (
        FleetChannel,
        Channel,
        {
            "_get_pool": "self, asynchronous=False",
            "_on_connection_disconnect": "self, connection",
        },
    ),
    (
        FleetTransport,
        Transport,
        {
            "establish_connection": "self",
            "close_connection": "self, connection",
            "as_uri": "self, uri, include_password=False, mask='**'",
        },
    ),
    (
        FleetBackend,
        RedisBackend,
        {
            "_params_from_url": "self, url, defaults",
            "_get_pool": "self, **params",
            "as_uri": "self, include_password=False",
            "mget": "self, keys",
            "get_key_for_task": "self, task_id, key=''",
            "decode_result": "self, payload",
            "exception_to_python": "self, exc",
        },
    ),
    (
        CheckedConsumer,
        Consumer,
        {
            "start": "self",
            "connection_for_read": "self, heartbeat=None",
            "ensure_connected": "self, conn",
            "on_invalid_task": "self, body, message, exc",
            "on_decode_error": "self, message, exc",
        },
    ),
    (
        _checked_transport(lambda: FleetTransport, lambda _raw, _reason: None).Channel,
        FleetChannel,
        {"_brpop_read": "self, **options"},
    ),
    (
        _checked_transport(lambda: FleetTransport, lambda _raw, _reason: None).Channel.Message,
        virtual.Message,
        {"__init__": "self, payload, channel=None, **kwargs"},
    ),
]

#: Attributes that ours reads or sets, and where the class of theirs sets or reads them.
ATTRIBUTES: list[tuple[Callable[..., Any] | type, str]] = [
    (Channel, "self.keyprefix_fanout"),
    (Channel.__init__, "self._registered"),
    (Channel.__init__, "self._sentinel_manager"),
    (Channel.__init__, "self._async_sentinel_manager"),
    (Channel, "self._get_pool(asynchronous=True)"),
    (Channel.__init__, "self._brpop_read"),
    (virtual.Transport, "self._avail_channels"),
    (RedisBackend, "self._params_from_url"),
    (RedisBackend, "self._get_pool"),
    (Request, "def _payload(self)"),
    (Consumer, "self.connection_for_read"),
    (Connection, "self.get_transport_cls()"),
    (control.Panel, "data"),
]


def _gone(hook: str, package: Any, why: str) -> str:
    return (
        f"{hook}: {why} in {package.__name__} {package.__version__}. manager/fleet/celery_redis.py or "
        f"tasks/consumer.py relies on it: adapt them, then raise the bound on {package.__name__} in "
        "pyproject.toml."
    )


def _package_of(owner: type) -> Any:
    return kombu if owner.__module__.startswith("kombu") or issubclass(owner, Channel) else celery


def _trouble(theirs: type, name: str, parameters: str) -> str | None:
    """Return the problem with a hook; None if it is unchanged."""
    package, hook = _package_of(theirs), f"{theirs.__module__}.{theirs.__qualname__}.{name}"
    method = getattr(theirs, name, None)
    if method is None:
        return _gone(hook, package, "is gone")
    found = ", ".join(
        str(one.replace(annotation=inspect.Parameter.empty))
        for one in inspect.signature(method).parameters.values()
    )
    if found != parameters:
        return _gone(hook, package, f"takes ({found}) and not ({parameters})")
    return None


@pytest.mark.parametrize(
    ("ours", "theirs", "name", "parameters"),
    [
        pytest.param(ours, theirs, name, parameters, id=f"{theirs.__name__}.{name}")
        for ours, theirs, methods in HOOKS
        for name, parameters in methods.items()
    ],
)
def test_a_hook_is_there_and_takes_what_it_took(ours: type, theirs: type, name: str, parameters: str) -> None:
    assert issubclass(ours, theirs)
    trouble = _trouble(theirs, name, parameters)
    assert trouble is None, trouble


@pytest.mark.parametrize(("owner", "used"), ATTRIBUTES, ids=[used for _, used in ATTRIBUTES])
def test_celery_and_kombu_still_use_what_is_set_or_overridden(
    owner: Callable[..., Any] | type, used: str
) -> None:
    sources = inspect.getsource(owner)
    name = getattr(owner, "__qualname__", str(owner))
    package = kombu if owner.__module__.startswith("kombu") else celery
    assert used in sources, _gone(f"{name} with {used}", package, "is not used any more")


def test_every_override_of_ours_is_a_hook_of_theirs() -> None:
    """An override whose hook was renamed is never called, and nothing else fails."""
    ours_alone = {"_polled", "_probe", "refuse_message", "_refuse", "_connect"}
    for ours, _theirs, methods in HOOKS:
        own = {name for name, value in vars(ours).items() if inspect.isfunction(value)}
        bases = [
            base for base in ours.__mro__[1:] if base.__module__.partition(".")[0] in {"celery", "kombu"}
        ]
        for name in own - ours_alone - {"__init__"}:
            assert any(hasattr(base, name) for base in bases), f"{ours.__name__}.{name} overrides nothing"
            # One that stands here only to be checked against a later release must be in the table.
            assert name in methods, f"{ours.__name__}.{name} is an override that HOOKS does not list"
    assert issubclass(CheckedRequest, Request)


def test_a_hook_that_changed_is_reported_in_plain_words() -> None:
    class Renamed(redis_transport.Channel):
        _get_pool: Any = None

    class Changed(redis_transport.Channel):
        def _get_pool(self, asynchronous: bool = False, tls: bool = False) -> None: ...

    gone = _trouble(Renamed, "_get_pool", "self, asynchronous=False")
    assert gone is not None
    assert "Renamed._get_pool: is gone in kombu 5." in gone
    changed = _trouble(Changed, "_get_pool", "self, asynchronous=False")
    assert changed is not None
    assert "takes (self, asynchronous=False, tls=False) and not (self, asynchronous=False)" in changed
    assert "then raise the bound on kombu in pyproject.toml" in changed


@pytest.mark.parametrize("package", [celery, kombu], ids=["celery", "kombu"])
def test_a_package_whose_private_hooks_are_overridden_is_bound_to_its_minor_version(package: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in map(Requirement, project["dependencies"]) if one.name == package.__name__]
    assert wanted.specifier.contains(package.__version__)
    assert not any(wanted.specifier.contains(other) for other in ("5.6.9", "5.8.0", "6.0.0"))
