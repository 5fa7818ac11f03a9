"""Builds the record, launch specification and first metadata of a worker."""

import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from manager.config import AccountConfig, Resolved, config_version
from manager.config.models_limits import LimitsConfig
from manager.config.placeholders import filled, uses_state_dir
from manager.host.workers.leases import LeaseGrant
from manager.host.workers.records import NoteExtras, WorkerRecord, note_of, private_dir
from manager.host.workers.slot import Slot
from manager.models import WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.session.launch_spec import LaunchSpec
from manager.system.processes import ProcessRef
from manager.system.state_dir import StatePaths
from manager.versions import __version__


class Credentials(Protocol):
    """Resolves the secrets of an account."""

    @property
    def config_dir(self) -> Path: ...

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        """Return the password that the configuration refers to.

        Raises CredentialError.
        """

    def resolve_values(self, config: AccountConfig) -> Resolved:
        """Return `environment` and `options` with their references resolved.

        Raises CredentialError.
        """


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """The settings that all workers of this host share."""

    host: str
    paths: StatePaths
    redis_url: str | None
    venue_address: Callable[[], str | None]
    heartbeat_interval_seconds: float
    log_level: str
    log_json: bool
    log_file_bytes: int = 5_000_000
    log_files: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """An account's configuration, complete with its credentials."""

    #: As in the account's file.
    source: AccountConfig
    #: With its placeholders filled.
    filled: AccountConfig
    password: SecretStr | None
    values: Resolved


class LaunchBuilder:
    """Builds the records and launch specifications of this host's workers."""

    def __init__(self, credentials: Credentials, environment: WorkerEnvironment) -> None:
        self._credentials = credentials
        self._environment = environment
        self._home = environment.paths.home

    def resolve(self, config: AccountConfig) -> ResolvedConfig:
        """Read the account's credentials. Raises CredentialError."""
        password = self._credentials.resolve_password(config)
        complete = filled(config, self._environment.paths.account_dir(config.account_id))
        values = self._credentials.resolve_values(complete)
        return ResolvedConfig(source=config, filled=complete, password=password, values=values)

    def metadata(self, record: WorkerRecord) -> dict[str, Any]:
        """Return the worker's metadata before its first heartbeat."""
        log_file = self._environment.paths.worker_log(record.account_id)
        placement = record.placement(self._environment.host, log_file)
        return placement.to_dict() | WorkerMetrics(health="unknown").to_dict()

    def record(
        self,
        slot: Slot,
        info: WorkerInfo,
        config: AccountConfig,
        lease: LeaseGrant,
        process: ProcessRef,
        generation: int,
    ) -> WorkerRecord:
        """Return the record of the new worker in `slot`."""
        run_dir = self._environment.paths.run_dir
        return WorkerRecord(
            worker_id=info.worker_id,
            account_id=config.account_id,
            claims=lease.claims,
            epoch=lease.epoch,
            lease_seconds=lease.seconds,
            generation=generation,
            process=process,
            control_address=_control_address(run_dir, info.worker_id),
            control_token=secrets.token_hex(16),
            beat_file=run_dir / f"{info.worker_id}.beat",
            gateway=config.gateway,
            config_version=config_version(config),
            software_version=__version__,
            stop_timeout_seconds=config.stop_seconds(),
            hang_after_seconds=config.health.hang_after_seconds,
            created_at=info.created_at,
            restarts=slot.restarts,
            last_cause=slot.last_cause,
            groups=config.groups,
            labels=config.labels,
        )

    def spec(
        self, slot: Slot, record: WorkerRecord, resolved: ResolvedConfig, lease: LeaseGrant
    ) -> LaunchSpec:
        """Return the launch specification of the new worker in `slot`, which has this record."""
        environment, config, values = self._environment, resolved.filled, resolved.values
        account_dir = environment.paths.account_dir(config.account_id)
        source = resolved.source
        extras = NoteExtras(source.recovery, source.limits, slot.origin)
        return LaunchSpec(
            worker_id=record.worker_id,
            config=config,
            password=resolved.password,
            environment=values.environment,
            options=values.options,
            secrets=values.secrets,
            redis_url=None if environment.redis_url is None else SecretStr(environment.redis_url),
            host=environment.host,
            home=self._home,
            claims=lease.claims,
            epoch=lease.epoch,
            lease_seconds=lease.seconds,
            leased_at=lease.asked_at,
            venue_address=config.venue or environment.venue_address(),
            log_file=environment.paths.worker_log(config.account_id),
            beat_file=record.beat_file,
            private_dir=private_dir(record.beat_file),
            directory=self._credentials.config_dir / os.path.expanduser(config.directory or "."),  # noqa: PTH111
            state_dir=account_dir if uses_state_dir(resolved.source) else None,
            control_address=record.control_address,
            control_token=SecretStr(record.control_token),
            heartbeat_interval_seconds=environment.heartbeat_interval_seconds,
            log_level=environment.log_level,
            log_json=environment.log_json,
            trading_mode=str(slot.mode),
            log_file_bytes=environment.log_file_bytes,
            log_files=environment.log_files,
            note=SecretStr(note_of(record, self._home, extras)),
        )


def limits_metadata(limits: LimitsConfig | None) -> dict[str, Any]:
    """Return the metadata of a worker with these limits; empty if it has none."""
    if limits is None or not limits.given:
        return {}
    return WorkerPlacement(limits=limits.to_record()).to_dict()


def _control_address(run_dir: Path, worker_id: str) -> str:
    if sys.platform == "win32":
        return rf"\\.\pipe\worker-manager-{worker_id}"
    return str(run_dir / f"{worker_id}.sock")
