"""Every error that the manager raises.

A leaf: imports no other module of the project. Each error takes its text as its only argument and has no
instance attributes, because Celery transports an error as its class name and its positional arguments. The
class has `code` (stable, machine-readable) and `retryable` (whether the same call may succeed later with
nothing changed). An error is a ValueError if the caller must change the arguments or the configuration, and a
RuntimeError if a valid command failed.
"""

from typing import ClassVar


class ManagerError(Exception):
    """The base class of the manager's errors."""

    code: ClassVar[str] = "manager_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


# --- the arguments or the configuration are wrong: fix them, then repeat the command


class InvalidAccountIdError(ManagerError, ValueError):
    """Raised when an account id is not a valid name of an account file."""

    code = "invalid_account_id"


class AccountNotFoundError(ManagerError, ValueError):
    """Raised when there is no account file with the given id."""

    code = "account_not_found"


class InvalidConfigError(ManagerError, ValueError):
    """Raised when a configuration is invalid.

    The text lists every problem, one per line.
    """

    code = "invalid_config"


class ImportSourceError(ManagerError, ValueError):
    """Raised when a file of another supervisor cannot be imported."""

    code = "import_source_unreadable"


class InvalidPayloadError(ManagerError, ValueError):
    """Raised when a task or a command gets invalid arguments."""

    code = "invalid_payload"


class CredentialError(ManagerError, ValueError):
    """Raised when a credential reference does not resolve on this host."""

    code = "credential_unavailable"


class AccountDisabledError(ManagerError, ValueError):
    """Raised when a start names an account whose file says `enabled: false`."""

    code = "account_disabled"


class NoWorkerError(ManagerError, ValueError):
    """Raised when a stop names an account that has no worker."""

    code = "no_worker"


class NoConfigVersionError(ManagerError, ValueError):
    """Raised when a version of the pushed configuration does not exist."""

    code = "no_config_version"


class ConfigChangedError(ManagerError, RuntimeError):
    """Raised when another push changed the configuration in between."""

    code = "config_changed"


class NoBatchError(ManagerError, ValueError):
    """Raised when there is no record of a batch."""

    code = "no_batch"


class NoOverrideError(ManagerError, ValueError):
    """Raised when the account's schedule has no override."""

    code = "no_override"


class NothingHeldError(ManagerError, ValueError):
    """Raised when no change of the account's file waits for approval, or another one than was named."""

    code = "nothing_held"


class NoRolloutError(ManagerError, ValueError):
    """Raised when the rollout is unknown."""

    code = "no_rollout"


class RolloutConflictError(ManagerError, RuntimeError):
    """Raised when an account belongs to another rollout, or the rollout cannot do what was asked."""

    code = "rollout_conflict"


class InvalidCursorError(ManagerError, ValueError):
    """Raised when a text is not a cursor of the event stream."""

    code = "invalid_cursor"


class CursorGoneError(ManagerError, RuntimeError):
    """Raised when events after a cursor are gone or the stream was replaced.

    `oldest` is the oldest cursor from which a reader can continue now; empty if unknown.
    """

    code = "cursor_gone"

    #: Kept in the instance only where it is known: an error crosses Celery without it.
    oldest: str = ""

    def __init__(self, message: str = "", *, oldest: str = "") -> None:
        super().__init__(message)
        if oldest:
            self.oldest = oldest


class NoSuchHostError(ManagerError, ValueError):
    """Raised when a host never reported."""

    code = "no_such_host"


class AlreadyThereError(ManagerError, ValueError):
    """Raised when a move names the host where the account already is."""

    code = "already_there"


class SettingsError(ManagerError, ValueError):
    """Raised when a setting, or a directory that it names, cannot be used."""

    code = "bad_settings"


# --- the command is valid but failed


class StartFailedError(ManagerError, RuntimeError):
    """Raised when a worker could not be started.

    Its process, record and lease are cleaned up.
    """

    code = "start_failed"
    retryable = True


class StartTimeoutError(StartFailedError):
    """Raised when a session was not connected within the account's timeout."""

    code = "start_timeout"


class StartCancelledError(StartFailedError):
    """Raised when a stop arrived while the worker was still starting."""

    code = "start_cancelled"
    retryable = False


class WorkerDiedError(StartFailedError):
    """Raised when the worker process ended before its session was connected."""

    code = "worker_died"


class AuthenticationRefusedError(StartFailedError):
    """Raised when the venue refused the credentials.

    Do not retry until they change.
    """

    code = "authentication_failed"
    retryable = False


class WrongAccountError(StartFailedError):
    """Raised when the venue reports another account than the configured one."""

    code = "wrong_account"
    retryable = False


class ConnectionFailedError(StartFailedError):
    """Raised when the gateway could not reach its venue."""

    code = "connection_failed"


class SessionHeldError(StartFailedError):
    """Raised when another worker holds a session of the same broker identity."""

    code = "session_held"
    retryable = False


class SlowFilesError(StartFailedError):
    """Raised when reading an account's files or credential takes too long."""

    code = "slow_files"
    retryable = True


class DiskRefusesError(StartFailedError):
    """Raised when a host's disk is full or read-only and a start fails.

    Recovery retries until the disk accepts writes.
    """

    code = "disk_refuses"
    retryable = True


class StopFailedError(ManagerError, RuntimeError):
    """Raised when there is no proof in time that a worker has ended.

    It may still trade.
    """

    code = "stop_failed"
    retryable = True


class OrphansLeftError(StopFailedError):
    """Raised when processes of an ended worker's program cannot be killed.

    The account keeps its lease, because these processes may still trade.
    """

    code = "orphans_left"
    retryable = True


class NotSupportedError(ManagerError, RuntimeError):
    """Raised when the account's gateway does not support a command."""

    code = "not_supported"


class CommandRefusedError(ManagerError, RuntimeError):
    """Raised when a running worker did not carry out a command."""

    code = "command_refused"
    retryable = True


class OverruledError(ManagerError, RuntimeError):
    """Raised when a stop arrives after a later start: it changes nothing."""

    code = "overruled"


class HostUnavailableError(ManagerError, RuntimeError):
    """Raised when no live host agent can carry out a command."""

    code = "host_unavailable"
    retryable = True


class NoHostFitsError(HostUnavailableError):
    """Raised when placement rules refuse every live host.

    The text names each host and rule.
    """

    code = "no_host_fits"


class VersionMismatchError(HostUnavailableError):
    """Raised when a manager and a host are more than one minor version apart.

    Stops still work.
    """

    code = "version_mismatch"
    retryable = False


class HostAgentError(ManagerError, RuntimeError):
    """Raised when a host agent cannot run.

    Its Celery pool is wrong, or its state directory is in use.
    """

    code = "host_agent"


class FleetUnavailableError(ManagerError, RuntimeError):
    """Raised when Redis cannot be reached or returns an error."""

    code = "fleet_unavailable"
    retryable = True


class AccountBusyError(ManagerError, RuntimeError):
    """Raised when an account has or may have a worker and must not have one."""

    code = "account_busy"


class CommandTimeoutError(ManagerError, RuntimeError):
    """Raised when no result of a command arrived in time.

    The command may still be carried out.
    """

    code = "command_timeout"
    retryable = True


class ComponentError(ManagerError, RuntimeError):
    """Raised when a component of `manager up` cannot run."""

    code = "component_failed"
