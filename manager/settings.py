"""Settings of one process, read from `MANAGER_*` environment variables."""

import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from manager.errors import SettingsError
from manager.placement.labels import Labels, parse_labels
from manager.system.regular_files import read_regular_file
from manager.system.secret_text import SecretTextError, decode_text, secret_problem

_APP = "worker-manager"

#: Maximum size of a file that holds one URL, in bytes.
_MAX_SECRET_FILE = 64 * 1024

#: A host's name is part of the names of its queue and its Redis keys.
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

#: Scheme, host and port of a page, as browsers send it.
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def _default_host() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:63]
    return name or "localhost"


class Settings(BaseSettings):
    """The settings.

    Each field is read from the environment variable `MANAGER_<FIELD>`.
    """

    model_config = SettingsConfigDict(env_prefix="MANAGER_", frozen=True, extra="ignore")

    #: URL of Redis; may contain a password. Default: the Redis that `manager up` started on this machine.
    redis_url: SecretStr | None = None
    #: A file (mode 0600) that holds the URL instead, for example a container's secret.
    redis_url_file: Path | None = None
    config_dir: Path = Field(default_factory=lambda: platformdirs.user_config_path(_APP, appauthor=False))
    #: Source of account files: `directory` (MANAGER_CONFIG_DIR), or `fleet` (pushed to Redis by `manager
    #: config push`). Credentials are read from MANAGER_CONFIG_DIR on each host in both cases.
    config_source: Literal["directory", "fleet"] = "directory"
    state_dir: Path = Field(default_factory=lambda: platformdirs.user_state_path(_APP, appauthor=False))
    #: This host's name in the fleet; its queue is `host.<name>`.
    host: str = Field(default_factory=_default_host)
    #: Labels of this host (`mt5,london,egress_ip=203.0.113.7`), for `requires` in account files.
    labels: Annotated[Labels, NoDecode] = Field(default_factory=dict)
    #: Maximum number of workers on this host; 0: limited by memory alone.
    capacity: Annotated[int, Field(ge=0, le=100_000)] = 0

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = False
    #: File for the host agent's log, rotated like the accounts' logs. Default: standard error.
    log_file: Path | None = None
    #: Size in bytes at which a log file is rotated.
    log_file_bytes: Annotated[int, Field(ge=10_000, le=10_000_000_000)] = 5_000_000
    #: Number of log files for each account, including the current one.
    log_files: Annotated[int, Field(ge=2, le=1_000)] = 4

    #: Threads of the host agent, so concurrent commands. With fewer than 32, Celery without prefetch stalls.
    agent_threads: Annotated[int, Field(ge=32, le=1024)] = 128
    #: Interval of a worker's heartbeats.
    heartbeat_interval_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    #: Age of a heartbeat beyond which the worker's status is `unknown`.
    stale_after_seconds: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    #: How long another host waits for a silent worker with `failover: auto`, and how long a restarted Redis
    #: grants no new leases. Must be the same on every host.
    lease_seconds: Annotated[float, Field(ge=2, le=600)] = 15.0
    #: Interval at which a host agent looks at the account files.
    reload_seconds: Annotated[float, Field(ge=2, le=3600)] = 2.0
    #: Maximum number of sessions that a host opens per second at one server.
    logins_per_second: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    #: Interval at which a host agent sends itself a message. After six lost ones it exits to be restarted.
    self_test_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    #: Entries that the event stream keeps; 100,000 are about 18 MB of Redis's memory.
    events_kept: Annotated[int, Field(ge=1_000, le=100_000_000)] = 100_000
    #: Interval of the fleet-wide housekeeping that the scheduler sends to a host.
    tidy_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    #: Whether an agent that gets SIGTERM stops its workers first; the next agent starts them again. For
    #: containers, whose end kills every process. A crash of the agent stops no worker.
    stop_workers_on_exit: bool = False
    #: How long a caller waits for the result of one command.
    command_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] = 180.0

    #: File with `USER:PASSWORD` lines. Without it, Flower serves anyone who reaches its port.
    flower_auth_file: Path | None = None
    flower_address: str = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=0, le=65535)] = 5555

    #: Where `manager api` listens. Beyond loopback it needs TLS, or a proxy that does TLS.
    api_address: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8700
    #: Certificate (with its chain) and key of the API, as PEM files.
    api_tls_cert: Path | None = None
    api_tls_key: Path | None = None
    #: Whether a proxy on this machine does TLS for the API: its X-Forwarded-For and X-Forwarded-Proto are
    #: believed.
    api_proxy: bool = False
    #: Which accounts have their own metrics: all, those that need attention, none, or (`auto`) all up to
    #: 1,000 and those that need attention beyond.
    metrics_accounts: Literal["auto", "all", "attention", "none"] = "auto"
    #: File with a token that may read `/metrics`, also while Redis is unreachable.
    metrics_token_file: Path | None = None
    #: Names by which clients reach the API beside loopback: `api.example.com,10.0.0.5`. Requests to others
    #: are refused.
    api_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    #: Pages of other origins whose scripts may use the API with a token: `https://desk.example.com`.
    api_origins: Annotated[tuple[str, ...], NoDecode] = ()
    #: Multiplies every rate limit of the API but that of failed logins. For tests of the API.
    api_rate_factor: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0

    #: Address of the paper venue, `unix:/path` or `tcp:host:port`. Default: the venue of this state
    #: directory.
    venue_url: str | None = None
    #: Seed of the paper venue's prices; equal seeds give equal prices.
    venue_seed: int = 1

    #: How limits of accounts are enforced: `auto` and `cgroup` use control groups where the host has them,
    #: `rlimit` never; `off` disables limits.
    limits: Literal["auto", "cgroup", "rlimit", "off"] = "auto"

    #: How worker processes start: `fork` from a preloaded process, or `spawn` a new interpreter.
    start_method: Literal["fork", "spawn"] = "spawn" if sys.platform == "win32" else "fork"

    @model_validator(mode="before")
    @classmethod
    def _url_from_file(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("redis_url_file") and not data.get("redis_url"):
            url = read_secret_line(Path(str(data["redis_url_file"])), "MANAGER_REDIS_URL_FILE")
            return {**data, "redis_url": url}
        return data

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, data: Any) -> Any:
        # Docker Compose passes an unset `${NAME:-}` as an empty value.
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value != ""}
        return data

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        level = value.strip().upper() if isinstance(value, str) else value
        return {"WARN": "WARNING", "FATAL": "ERROR", "CRITICAL": "ERROR"}.get(str(level), level)

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        return parse_labels(value) if isinstance(value, str) else value

    @field_validator("api_hosts", mode="before")
    @classmethod
    def _api_hosts(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("api_origins", mode="before")
    @classmethod
    def _api_origins(cls, value: object) -> object:
        found = cls._api_hosts(value)
        wrong = [one for one in found if not _ORIGIN.fullmatch(str(one))] if isinstance(found, tuple) else []
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not an origin: give `https://host` or `https://host:port`")
        return found

    @field_validator("config_dir", "state_dir", "log_file", "api_tls_cert", "api_tls_key")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{value!s:.200} is not valid UTF-8: name another directory".encode(
                    errors="backslashreplace"
                ).decode()
            ) from None
        return Path(os.path.abspath(value.expanduser()))  # noqa: PTH100 - resolve() would follow links

    @field_validator("host")
    @classmethod
    def _host_name(cls, value: str) -> str:
        if not HOST_NAME.fullmatch(value):
            raise ValueError(
                "a host's name is 1 to 63 letters, digits, '.', '_' or '-', and starts with a letter or digit"
            )
        return value


def read_secret_line(path: Path, setting: str) -> str:
    """Return the one line of a file that holds a URL, stripped.

    Raises ValueError without any of the file's contents in its text.
    """
    path = path.expanduser()
    try:
        raw = read_regular_file(str(path), _MAX_SECRET_FILE)
        if len(raw) > _MAX_SECRET_FILE:
            raise ValueError(f"{setting}: {path} is longer than {_MAX_SECRET_FILE} bytes")
        # A URL neither begins nor ends with whitespace.
        url = decode_text(raw).strip(" \t\r\n")
        problem = secret_problem(url) if url else "is empty; it holds the URL of the fleet's Redis"
    except OSError as error:
        raise ValueError(f"{setting}: {path} cannot be read: {error.strerror or error}") from None
    except SecretTextError as error:
        raise ValueError(f"{setting}: {path} {error}") from None
    if problem is not None:
        raise ValueError(f"{setting}: {path} {problem}")
    return url


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises SettingsError that names each invalid variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            (f"MANAGER_{str(e['loc'][0]).upper()}: " if e["loc"] else "")
            + e["msg"].removeprefix("Value error, ")
            for e in error.errors(include_input=False)
        )
        raise SettingsError(f"bad setting in the environment: {problems}") from None
    except (RuntimeError, KeyError) as error:
        raise SettingsError(
            f"no home directory is known in the environment ({error}): set HOME, or MANAGER_CONFIG_DIR and "
            "MANAGER_STATE_DIR"
        ) from None
