"""The command gateway: a session is a running program.

`connect` starts the program; `disconnect` ends it with its children.
"""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from socket import socket
from typing import Final

from manager.config.models import ReadyConfig
from manager.gateways.base import (
    Account,
    ConnectionLost,
    ConnectTimeout,
    Environment,
    ForcedEnd,
    GatewayError,
    Health,
    Instrument,
    InvalidRequest,
    NotSupported,
    Position,
    PositionMode,
    Session,
    Side,
    Tick,
    VenueNotFound,
)
from manager.gateways.command.credentials_file import CredentialsFile
from manager.gateways.command.executables import find_program, program_trouble, start_failure
from manager.gateways.command.notify import NotifySocket
from manager.gateways.command.program import Program, start_program
from manager.gateways.command.program_dirs import make_program_dirs
from manager.gateways.command.program_health import ProgramHealth
from manager.gateways.command.program_output import ProgramOutput
from manager.gateways.command.program_user import ProgramUser, ProgramUserError, program_user
from manager.gateways.command.readiness import foreign_server, missing_sign, refuse_used_port
from manager.gateways.options import GatewayOptions
from manager.system import logs
from manager.system.environment import program_environment
from manager.system.masking import Masker

logger = logging.getLogger("manager.program")

#: Seconds between two checks of readiness.
_POLL_SECONDS: Final = 0.1
#: Minimum time for a clean stop in seconds, even if the deadline leaves less.
_MIN_STOP_SECONDS: Final = 0.5
#: Seconds within which a killed program must end.
_KILL_SECONDS: Final = 5.0
#: Seconds to wait for the last output of a program that has ended: for its error text, and for the log.
_LAST_LINE_SECONDS: Final = 0.5
_LAST_OUTPUT_SECONDS: Final = 1.0


class CommandGateway:
    """A session that is a running program.

    Whether and what the program trades is unknown here.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._credentials = CredentialsFile(options)
        self._program: Program | None = None
        self._output: ProgramOutput | None = None
        self._user: ProgramUser | None = None
        self._notify: NotifySocket | None = None
        self._health: ProgramHealth | None = None
        self._cancelled = False

    def connect(self, deadline: float) -> Session:
        """Start the program and wait until it is ready.

        Raises:
            VenueNotFound: The program does not exist or cannot be executed.
            ConnectionLost: The program ended before it was ready.
            ConnectTimeout: The program was not ready at the deadline.
            InvalidRequest: The configuration is not valid on this host.
        """
        ready = self._options.ready
        if not self._options.command or ready is None:
            raise InvalidRequest("gateway command needs `command` and `ready`")
        self._refuse_if_cancelled()
        with contextlib.suppress(ForcedEnd):
            self.disconnect()
        refuse_used_port(ready)
        try:
            self._prepare()
            self._start(self._options.command, ready)
            self._wait_ready(ready, deadline)
        except GatewayError as error:
            # The program may trade even if it has not shown that it is ready: it gets a full clean stop.
            try:
                self._end(self._options.stop.deadline_seconds)
            except ForcedEnd as forced:
                raise type(error)(f"{error}; {forced}") from forced
            raise
        except BaseException:
            self._end(stop_seconds=0.0)
            raise
        if self._health is not None:
            self._health.started()
        return Session(
            account_id=str(self._options.login or self._options.account_id),
            server=self._options.server or "",
            environment=Environment.REAL,
            position_mode=PositionMode.NETTING,
            can_trade=True,
            blocked_reason=None,
            currency="",
            leverage=1,
        )

    def check(self) -> Health:
        program = self._program
        ended = "the program is not running" if program is None else self._exit_reason(program)
        if ended is not None:
            return Health(
                ipc_ok=False, venue_connected=False, can_trade=False, account_matches=False, reason=ended
            )
        self._restore_files()
        lasting = self._health.trouble() if self._health is not None else None
        reason = lasting or self._missing_sign()
        return Health(
            ipc_ok=True,
            venue_connected=reason is None,
            can_trade=reason is None,
            account_matches=True,
            reason=reason,
            unhealthy=lasting is not None,
            status=self._notify.status if self._notify is not None else None,
        )

    def wake_source(self) -> socket | None:
        """Return a socket that is readable once the program has ended.

        See `WakesLoop`.
        """
        return self._program.wake_source() if self._program is not None else None

    def cancel_connect(self) -> None:
        """Make a running `connect` stop the program and raise ConnectionLost.

        Only sets a flag, because a signal handler must not wait for a lock.
        """
        self._cancelled = True

    def disconnect(self, deadline: float | None = None) -> None:
        """Stop the program and its children.

        Kill those that run after `stop.deadline_seconds`.

        An earlier `deadline` shortens that time. Raises ForcedEnd if a process had to be killed.
        """
        seconds = self._options.stop.deadline_seconds
        if deadline is not None:
            # The signal is sent even if no time is left: the program may cancel its orders on it.
            seconds = min(seconds, max(_MIN_STOP_SECONDS, deadline - time.monotonic()))
        self._end(seconds)

    def account(self) -> Account:
        raise NotSupported("the account of a program is not known to the manager")

    def instrument(self, symbol: str) -> Instrument:
        raise NotSupported("the instruments of a program are not known to the manager")

    def tick(self, symbol: str) -> Tick:
        raise NotSupported("the prices of a program are not known to the manager")

    def positions(self) -> Sequence[Position]:
        raise NotSupported("the positions of a program are not known to the manager")

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        raise NotSupported("the orders of a program are not known to the manager")

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        raise NotSupported("the positions of a program are not known to the manager")

    # internal

    def _refuse_if_cancelled(self) -> None:
        if self._cancelled:
            raise ConnectionLost("a stop arrived while it was starting")

    def _prepare(self) -> None:
        """Look up the program's user and create its directories.

        Raises InvalidRequest.
        """
        options = self._options
        try:
            self._user = program_user(options.user, options.group)
        except ProgramUserError as error:
            raise InvalidRequest(f"{error.key}: {error}") from None
        try:
            make_program_dirs(options.private_dir, options.state_dir, self._user)
        except OSError as error:
            raise InvalidRequest(
                f"state directory: {error.filename}: {error.strerror or error}: set MANAGER_STATE_DIR to a "
                "directory that the host agent can write to"
            ) from None
        needed = options.state_dir or (options.private_dir if options.password is not None else None)
        if options.ready is not None and options.ready.notify:
            needed = needed or options.private_dir
        barred = None if self._user is None or needed is None else self._user.cannot_reach(needed)
        if self._user is not None and barred is not None:
            raise InvalidRequest(
                f"user: {self._user.name} may not enter {barred}, which contains the program's files: set "
                "MANAGER_STATE_DIR to a directory that this user can reach, such as one in /var/lib"
            )

    def _start(self, command: Sequence[str], ready: ReadyConfig) -> None:
        environment = self._environment()
        search_path = environment.get("PATH")
        found = self._find(command[0], search_path)
        self._listen(ready)
        if self._notify is not None:
            environment |= self._notify.environment()
        options = self._options
        try:
            program = start_program(
                [found, *command[1:]],
                options.directory,
                environment,
                options.worker_id,
                private_dir=options.private_dir,
                keep_user=options.failover,
                user=self._user,
                umask=options.umask,
                open_files=options.open_files,
                make_directory=_is_below(options.directory, options.state_dir),
            )
        except OSError as error:
            raise VenueNotFound(self._start_failure(found, error, search_path)) from None
        self._program = program
        logs.event(logger, logging.INFO, "program_started", pid=program.pid, program=found)
        self._health = ProgramHealth(options.health, self._notify, program.stopped)
        self._output = ProgramOutput(Masker(options.all_secrets()), ready.line, self._health.feed)
        self._output.start(program.outputs)

    def _find(self, program: str, search_path: str | None) -> str:
        found = find_program(program, self._options.directory, search_path)
        if found is None:
            raise VenueNotFound(
                f"{program!r} is not an executable on this host's PATH: give its full path, or install it"
            )
        trouble = program_trouble(found, search_path)
        if trouble is not None:
            raise VenueNotFound(trouble)
        return found

    def _start_failure(self, found: str, error: OSError, search_path: str | None) -> str:
        if self._user is not None and isinstance(error, PermissionError):
            return (
                f"{error.filename or found}: user {self._user.name} may not use it ({error.strerror}): check "
                "owner and mode of it and of the directories above it"
            )
        return start_failure(found, error, search_path)

    def _listen(self, ready: ReadyConfig) -> None:
        """Create the notification socket if the program uses one.

        Raises InvalidRequest.
        """
        if not ready.notify:
            return
        options = self._options
        uid = None if self._user is None else self._user.uid
        try:
            self._notify = NotifySocket(options.private_dir, options.health.watchdog_seconds, uid)
        except OSError as error:
            raise InvalidRequest(f"ready.notify: the socket cannot be created: {error}") from None

    def _environment(self) -> dict[str, str]:
        options = self._options
        own = {"MANAGER_ACCOUNT_ID": options.account_id, "MANAGER_EPOCH": str(options.epoch)}
        if options.password is not None:
            self._credentials.write(self._user)
            own["MANAGER_CREDENTIALS_FILE"] = str(self._credentials.path)
        user: Mapping[str, str] | None = None if self._user is None else self._user.environment()
        return program_environment({**options.environment, **own}, user)

    def _restore_files(self) -> None:
        """Create the program's socket and credentials again if they were removed."""
        with contextlib.suppress(OSError):
            if self._notify is not None:
                self._notify.restore()
            if self._options.password is not None:
                self._credentials.restore()

    def _wait_ready(self, ready: ReadyConfig, deadline: float) -> None:
        started = time.monotonic()
        while True:
            program, output = self._program, self._output
            if program is None or output is None:
                raise ConnectionLost("the program is not running")
            ended = self._exit_reason(program, " before it was ready")
            if ended is not None:
                raise ConnectionLost(ended)
            self._refuse_if_cancelled()
            if ready.after_seconds is not None:
                reason = None if time.monotonic() - started >= ready.after_seconds else "it is too early"
            else:
                reason = missing_sign(ready, output, self._notify) or foreign_server(ready, program)
            if reason is None:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectTimeout(
                    f"the program runs, but was not ready in time: {reason}; {output.summary()}"
                )
            output.wait_for_change(min(_POLL_SECONDS, left))

    def _missing_sign(self) -> str | None:
        ready, output = self._options.ready, self._output
        return None if ready is None or output is None else missing_sign(ready, output, self._notify)

    def _exit_reason(self, program: Program, when: str = "") -> str | None:
        """Return how the program ended, or None while it runs."""
        code = program.exit_code()
        if program.guard_lost:
            return "the guard process of the program was killed: the program and its children are ended"
        if code is None:
            return None
        line = "" if self._output is None else self._output.last_line(_LAST_LINE_SECONDS)
        how = f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"
        return f"the program {how}{when}{f': {line}' if line else ''}"

    def _end(self, stop_seconds: float) -> None:
        """Stop the program within `stop_seconds`, then kill what is left of it.

        Raises ForcedEnd.
        """
        program = self._program
        if program is None:
            return
        forced = self._stop(program, stop_seconds) if stop_seconds > 0 else None
        # Also after a clean stop: a process that the program started may trade without it.
        gone = program.kill_all(_KILL_SECONDS)
        self._credentials.remove()
        if not gone:
            raise RuntimeError(
                "processes of the program could not be killed and may still trade: "
                f"{', '.join(program.left())}"
            )
        if self._output is not None:
            # The log needs the last lines, and the pipes must not be read after they are closed.
            self._output.join(_LAST_OUTPUT_SECONDS)
        program.close()
        self._program = None
        if self._health is not None:
            self._health.close()
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        if forced is not None:
            raise ForcedEnd(forced)

    def _stop(self, program: Program, seconds: float) -> str | None:
        """Send the stop signal and wait.

        Returns a text if processes must be killed.
        """
        name = self._options.stop.signal
        # To the children too: the program may be a shell, which ends without passing the signal on.
        program.send_stop_signal(name)
        if program.wait(seconds):
            return None
        text = (
            f"the program did not stop within {seconds:g} s of SIG{name.upper().removeprefix('SIG')}; "
            f"killed: {', '.join(program.left()) or f'pid {program.pid}'}"
        )
        logs.event(logger, logging.WARNING, "program_killed", text, pid=program.pid)
        return text


def _is_below(directory: Path | None, state_dir: Path | None) -> bool:
    return directory is not None and state_dir is not None and directory.is_relative_to(state_dir)
