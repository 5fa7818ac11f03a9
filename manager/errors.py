"""Every error that the manager raises on purpose. A leaf: imports nothing of ours.

Each error takes its text as the one positional argument and keeps nothing else in the instance, because an error
crosses Celery as its class name and its positional arguments: whatever is only an attribute is lost on the way.
What a caller can decide by is on the class: `code` (stable, machine-readable) and `retryable` (whether the same call
may succeed later with nothing changed). They subclass ValueError where the caller must change what was asked for or
configured, and RuntimeError where what was asked for was fine but could not be done.
"""

from typing import ClassVar


class ManagerError(Exception):
    """Root of all errors of the manager."""

    code: ClassVar[str] = "manager_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


# --- the caller or the configuration is wrong: fix it, then ask again


class InvalidAccountIdError(ManagerError, ValueError):
    """Raised when an account id could not be the name of an account file."""

    code = "invalid_account_id"


class AccountNotFoundError(ManagerError, ValueError):
    """Raised when there is no account file with the asked-for id."""

    code = "account_not_found"


class InvalidConfigError(ManagerError, ValueError):
    """Raised when a configuration breaks a rule; the text holds every problem, one a line."""

    code = "invalid_config"


class ImportSourceError(ManagerError, ValueError):
    """Raised when a file of another supervisor cannot be translated into account files."""

    code = "import_source_unreadable"


class InvalidPayloadError(ManagerError, ValueError):
    """Raised when a task or a command carries arguments that it does not take."""

    code = "invalid_payload"


class CredentialError(ManagerError, ValueError):
    """Raised when a credential reference does not resolve on this host."""

    code = "credential_unavailable"


class AccountDisabledError(ManagerError, ValueError):
    """Raised when a start is asked for an account whose file says `enabled: false`."""

    code = "account_disabled"


class NoWorkerError(ManagerError, ValueError):
    """Raised when a stop is asked for an account that has no worker."""

    code = "no_worker"


class NoConfigVersionError(ManagerError, ValueError):
    """Raised when a version of the pushed configuration is named that is not there."""

    code = "no_config_version"


class ConfigChangedError(ManagerError, RuntimeError):
    """Raised when somebody else pushed a configuration in between."""

    code = "config_changed"


class NoBatchError(ManagerError, ValueError):
    """Raised when nothing is known of a batch."""

    code = "no_batch"


class InvalidCursorError(ManagerError, ValueError):
    """Raised when a text is not a cursor of the event stream."""

    code = "invalid_cursor"


class CursorGoneError(ManagerError, RuntimeError):
    """Raised when events after a cursor are no longer kept, or the stream was replaced.

    `oldest` is the oldest cursor from which a reader can follow now; empty where nobody knows.
    """

    code = "cursor_gone"

    def __init__(self, message: str = "", *, oldest: str = "") -> None:
        super().__init__(message)
        self.oldest = oldest


class NoSuchHostError(ManagerError, ValueError):
    """Raised when a host is named that never reported."""

    code = "no_such_host"


class AlreadyThereError(ManagerError, ValueError):
    """Raised when a move is asked to the host where the account is."""

    code = "already_there"


class SettingsError(ManagerError, ValueError):
    """Raised when the environment, or a directory that it names, cannot be used."""

    code = "bad_settings"


# --- what was asked for could not be done


class StartFailedError(ManagerError, RuntimeError):
    """Raised when a worker could not be started; nothing of the attempt is left behind."""

    code = "start_failed"
    retryable = True


class StartTimeoutError(StartFailedError):
    """Raised when a worker did not report a connected session in the account's time."""

    code = "start_timeout"


class StartCancelledError(StartFailedError):
    """Raised when a stop arrived while the worker was still starting."""

    code = "start_cancelled"
    retryable = False


class WorkerDiedError(StartFailedError):
    """Raised when the worker process ended before its session was connected."""

    code = "worker_died"


class AuthenticationRefusedError(StartFailedError):
    """Raised when the venue refused the credentials; not to be retried until they change."""

    code = "authentication_failed"
    retryable = False


class WrongAccountError(StartFailedError):
    """Raised when the venue answered for another account than the configured one."""

    code = "wrong_account"
    retryable = False


class ConnectionFailedError(StartFailedError):
    """Raised when the gateway could not reach its venue."""

    code = "connection_failed"


class SessionHeldError(StartFailedError):
    """Raised when another worker already holds the session of the same broker identity."""

    code = "session_held"
    retryable = False


class SlowFilesError(StartFailedError):
    """Raised when an account's files, or the place of its credential, do not answer in time."""

    code = "slow_files"
    retryable = True


class DiskRefusesError(StartFailedError):
    """Raised when a worker cannot start because its host's disk is full or read-only; tried again until it is not."""

    code = "disk_refuses"
    retryable = True


class StopFailedError(ManagerError, RuntimeError):
    """Raised when a worker could not be proven dead within the time; it may still be trading."""

    code = "stop_failed"
    retryable = True


class OrphansLeftError(StopFailedError):
    """Raised when a worker has ended, but processes that its program started could not be killed.

    The account keeps its lease: what is left may still trade.
    """

    code = "orphans_left"
    retryable = True


class NotSupportedError(ManagerError, RuntimeError):
    """Raised when what an account runs cannot do what a command asks for."""

    code = "not_supported"


class CommandRefusedError(ManagerError, RuntimeError):
    """Raised when a running worker did not do what a command asked it for."""

    code = "command_refused"
    retryable = True


class OverruledError(ManagerError, RuntimeError):
    """Raised when a stop arrives after a later start: it changes nothing."""

    code = "overruled"


class HostUnavailableError(ManagerError, RuntimeError):
    """Raised when no host agent is there to carry out a command."""

    code = "host_unavailable"
    retryable = True


class NoHostFitsError(HostUnavailableError):
    """Raised when every live host is refused by a rule; the text names host and rule."""

    code = "no_host_fits"


class VersionMismatchError(HostUnavailableError):
    """Raised when a manager and a host are more than one minor version apart; stops are obeyed all the same."""

    code = "version_mismatch"
    retryable = False


class HostAgentError(ManagerError, RuntimeError):
    """Raised when a host agent cannot run as it is started: wrong pool, or a second one on one state directory."""

    code = "host_agent"


class FleetUnavailableError(ManagerError, RuntimeError):
    """Raised when Redis cannot be reached, or answers with an error."""

    code = "fleet_unavailable"
    retryable = True


class AccountBusyError(ManagerError, RuntimeError):
    """Raised when an account has, or may have, a worker, and what was asked needs it to have none."""

    code = "account_busy"


class CommandTimeoutError(ManagerError, RuntimeError):
    """Raised when no answer to a command came in time; the command may still be carried out."""

    code = "command_timeout"
    retryable = True


class ComponentError(ManagerError, RuntimeError):
    """Raised when something that `manager up` starts (Redis, the venue, the host agent, Flower) cannot run."""

    code = "component_failed"
