"""The command gateway: any program as the session. It is started at connect and ended, children too, at disconnect."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from socket import socket
from typing import BinaryIO, Final

from manager.config.models import ReadyConfig
from manager.gateways import GatewayOptions
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
from manager.gateways.command.executables import find_program, program_trouble, start_failure
from manager.gateways.command.notify import NotifySocket
from manager.gateways.command.output import OutputLine, OutputReader
from manager.gateways.command.ports import local_port, port_trouble, served_by, server_of
from manager.gateways.command.program import Program, start_program
from manager.gateways.command.program_health import ProgramHealth, url_trouble
from manager.gateways.command.program_places import make_program_places
from manager.gateways.command.program_user import ProgramUser, ProgramUserError, program_user
from manager.gateways.command.visible_text import VisibleText, visible
from manager.system import logs
from manager.system.environment import program_environment
from manager.system.masking import Masker
from manager.system.output_text import escape_output
from manager.system.private_dirs import ensure_private_dir

logger = logging.getLogger("manager.program")

#: Seconds between two looks at a port or a URL that is not ready yet.
_PROBE_SECONDS: Final = 0.1
#: Seconds that one look may take.
_PROBE_TIMEOUT: Final = 2.0
#: Seconds that a program gets to stop where a deadline leaves it no time.
_LEAST_SECONDS: Final = 0.5
#: Seconds within which a killed program must be gone.
_KILL_SECONDS: Final = 5.0
#: Seconds within which the output of a program that has ended is read to its end.
_LAST_OUTPUT_SECONDS: Final = 1.0
#: Characters of the program's last line in an error text.
_LAST_LINE: Final = 500


class CommandGateway:
    """Runs the program; whether it trades, and on what, is the program's own affair."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._program: Program | None = None
        self._user: ProgramUser | None = None
        self._changed = threading.Condition()
        #: The text by which the program shows that it is ready, looked for in each of its streams.
        self._ready_texts: dict[str, VisibleText] = {}
        self._notify: NotifySocket | None = None
        self._health: ProgramHealth | None = None
        self._output_open = False
        self._reader: OutputReader | None = None
        self._reading: threading.Thread | None = None
        #: What the program printed last that is not blank, and the beginnings of lines that go on.
        self._last_line = ""
        self._cancelled = False
        self._begun: dict[str, str] = {}

    def connect(self, deadline: float) -> Session:
        """Start the program and wait until it is ready.

        Raises VenueNotFound (no such program), ConnectionLost (it ended first), ConnectTimeout, InvalidRequest.
        """
        ready = self._options.ready
        if not self._options.command or ready is None:
            raise InvalidRequest("gateway command needs `command` and `ready`")
        self._refuse_if_cancelled()
        with contextlib.suppress(ForcedEnd):
            self.disconnect()
        self._refuse_taken_port(ready)
        try:
            self._prepare()
            self._start(self._options.command, ready)
            self._wait_ready(ready, deadline)
        except GatewayError as error:
            # Ready or not by our sign, it may have orders: it is asked to stop as at any stop.
            try:
                self._end(self._options.stop.deadline_seconds)
            except ForcedEnd as forced:
                raise type(error)(f"{error}; {forced}") from forced
            raise
        except BaseException:
            self._end(polite_seconds=0.0)
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
        ended = "the program is not running" if program is None else self._ending(program)
        if ended is not None:
            return Health(
                ipc_ok=False, venue_connected=False, can_trade=False, account_matches=False, reason=ended
            )
        self._mend()
        lasting = self._health.trouble() if self._health is not None else None
        reason = lasting or self._unready()
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
        """See `manager.gateways.base.WakesLoop`: readable once the program has ended."""
        return self._program.wake_source() if self._program is not None else None

    def cancel_connect(self) -> None:
        """Have a `connect` that is under way ask the program to stop, and raise. A flag: no lock in a signal handler."""
        self._cancelled = True

    def disconnect(self, deadline: float | None = None) -> None:
        """Ask the program and all that it started to stop, and kill what is left after `stop.deadline_seconds`.

        A deadline that comes earlier shortens that time. Raises ForcedEnd if something had to be killed.
        """
        seconds = self._options.stop.deadline_seconds
        if deadline is not None:
            # A program is asked even where there is no time left: it may cancel its orders on the signal.
            seconds = min(seconds, max(_LEAST_SECONDS, deadline - time.monotonic()))
        self._end(seconds)

    def account(self) -> Account:
        raise NotSupported("a program's account is its own affair")

    def instrument(self, symbol: str) -> Instrument:
        raise NotSupported("a program's instruments are its own affair")

    def tick(self, symbol: str) -> Tick:
        raise NotSupported("a program's prices are its own affair")

    def positions(self) -> Sequence[Position]:
        raise NotSupported("a program's positions are its own affair")

    def submit_order(
        self, client_order_id: str, *, symbol: str, side: Side, volume: Decimal, comment: str = ""
    ) -> Position:
        raise NotSupported("a program's orders are its own affair")

    def close_position(self, position_id: str, volume: Decimal | None = None) -> None:
        raise NotSupported("a program's positions are its own affair")

    # the program

    def _refuse_if_cancelled(self) -> None:
        if self._cancelled:
            raise ConnectionLost("a stop arrived while it was starting")

    @staticmethod
    def _refuse_taken_port(ready: ReadyConfig) -> None:
        """Raise ConnectionLost if the port or URL by which the program shows that it is ready answers already."""
        port = _ready_port(ready)
        if port is None and ready.http is not None and url_trouble(ready.http, _PROBE_TIMEOUT) is None:
            raise ConnectionLost(
                f"{ready.http} (ready) answers before the program starts, so that it does not show when the program is "
                "ready: give a URL that the program itself serves"
            )
        if port is not None and port_trouble(port) is None:
            raise ConnectionLost(
                f"port {port} (ready) is served by {server_of(port)} before the program starts: end that process, or "
                "give the program another port"
            )

    def _prepare(self) -> None:
        """Look up the program's user and make the directories that it is given. Raises InvalidRequest."""
        options = self._options
        try:
            self._user = program_user(options.user, options.group)
        except ProgramUserError as error:
            raise InvalidRequest(f"{error.key}: {error}") from None
        try:
            make_program_places(options.private_dir, options.state_dir, self._user)
        except OSError as error:
            raise InvalidRequest(
                f"state directory: {error.filename}: {error.strerror or error}: set MANAGER_STATE_DIR to one that the "
                "host agent can write to"
            ) from None
        needed = options.state_dir or (options.private_dir if options.password is not None else None)
        if options.ready is not None and options.ready.notify:
            needed = needed or options.private_dir
        barred = None if self._user is None or needed is None else self._user.cannot_reach(needed)
        if self._user is not None and barred is not None:
            raise InvalidRequest(
                f"user: {self._user.name} may not enter {barred}, below which the program's files are: set "
                "MANAGER_STATE_DIR to a directory that this user can reach, such as one in /var/lib"
            )

    def _start_failure(self, found: str, error: OSError, search_path: str | None) -> str:
        if self._user is not None and isinstance(error, PermissionError):
            return (
                f"{error.filename or found}: user {self._user.name} may not use it ({error.strerror}): check owner "
                "and mode of it and of the directories above it"
            )
        return start_failure(found, error, search_path)

    def _start(self, command: Sequence[str], ready: ReadyConfig) -> None:
        directory = self._options.directory
        environment = self._environment()
        program = command[0]
        search_path = environment.get("PATH")
        found = find_program(program, directory, search_path)
        if found is None:
            raise VenueNotFound(
                f"{program!r} is not an executable on this host's PATH: give its full path, or install it"
            )
        trouble = program_trouble(found, search_path)
        if trouble is not None:
            raise VenueNotFound(trouble)
        self._ready_texts = (
            {} if ready.line is None else {name: VisibleText(ready.line) for name in ("stdout", "stderr")}
        )
        self._last_line, self._output_open, self._begun = "", True, {}
        if ready.notify:
            try:
                self._notify = NotifySocket(
                    self._options.private_dir,
                    self._options.health.watchdog_seconds,
                    None if self._user is None else self._user.uid,
                )
            except OSError as error:
                raise InvalidRequest(f"ready.notify: the socket cannot be made: {error}") from None
            environment |= self._notify.environment()
        try:
            self._program = start_program(
                [found, *command[1:]],
                directory,
                environment,
                self._options.worker_id,
                private_dir=self._options.private_dir,
                keep_user=self._options.failover,
                user=self._user,
                umask=self._options.umask,
                make_directory=_is_below(directory, self._options.state_dir),
            )
        except OSError as error:
            raise VenueNotFound(self._start_failure(found, error, search_path)) from None
        self._health = ProgramHealth(self._options.health, self._notify, self._program.stopped)
        logs.event(logger, logging.INFO, "program_started", pid=self._program.pid, program=found)
        self._reader = OutputReader(Masker(self._options.all_secrets()), self._on_line, self._on_part)
        self._reading = threading.Thread(
            target=self._read_output, args=(self._reader, self._program.outputs), name="output", daemon=True
        )
        self._reading.start()

    def _environment(self) -> dict[str, str]:
        options = self._options
        own = {"MANAGER_ACCOUNT_ID": options.account_id, "MANAGER_EPOCH": str(options.epoch)}
        if options.password is not None:
            own["MANAGER_CREDENTIALS_FILE"] = str(self._write_credentials())
        user = None if self._user is None else self._user.environment()
        return program_environment({**options.environment, **own}, user)

    def _write_credentials(self) -> Path:
        options = self._options
        ensure_private_dir(options.private_dir)
        path = self._credentials_file
        path.unlink(missing_ok=True)
        content = {
            "account_id": options.account_id,
            "login": options.login,
            "server": options.server,
            "password": options.password.get_secret_value() if options.password else None,
        }
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        if self._user is not None and sys.platform != "win32":
            os.chown(path, self._user.uid, -1)
        return path

    def _mend(self) -> None:
        """Make again what the program may look for in the private directory, if somebody has removed it."""
        with contextlib.suppress(OSError):
            if self._notify is not None:
                self._notify.mend()
            if self._options.password is not None and not self._credentials_file.exists():
                self._write_credentials()

    @property
    def _credentials_file(self) -> Path:
        return self._options.private_dir / "credentials.json"

    def _read_output(self, reader: OutputReader, outputs: Mapping[str, BinaryIO]) -> None:
        # A closed output ends the reading; a program that lives on without one is judged by its process alone.
        with contextlib.suppress(OSError, ValueError):
            reader.read(outputs)
        with self._changed:
            self._output_open = False
            self._changed.notify_all()

    def _on_line(self, line: OutputLine) -> None:
        text, escaped = escape_output(line.text)
        logs.event(
            logger,
            logging.INFO,
            "output",
            text,
            stream=line.stream,
            cut=True if line.cut else None,
            esc=True if escaped else None,
        )
        with self._changed:
            whole = (self._begun.get(line.stream, "") + line.text)[:_LAST_LINE]
            self._begun[line.stream] = whole if line.cut else ""
            shown = visible(whole).strip()
            if shown:
                self._last_line = shown

    def _on_part(self, stream: str, part: bytes) -> None:
        # In what the program printed, before anything in it is masked: a secret may be a word of the text.
        if self._health is not None:
            self._health.feed(stream, part)
        text = self._ready_texts.get(stream)
        if text is not None and text.feed(part):
            with self._changed:
                self._changed.notify_all()

    def _wait_ready(self, ready: ReadyConfig, deadline: float) -> None:
        started = time.monotonic()
        while True:
            program = self._program
            if program is None:
                raise ConnectionLost("the program is not running")
            ended = self._ending(program, " before it was ready")
            if ended is not None:
                raise ConnectionLost(ended)
            self._refuse_if_cancelled()
            if ready.after_seconds is not None:
                reason = None if time.monotonic() - started >= ready.after_seconds else "it is too early"
            else:
                reason = self._unready() or self._foreign_port(program, ready)
            if reason is None:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectTimeout(
                    f"the program runs, but was not ready in time: {reason}; {self._last_output()}"
                )
            with self._changed:
                self._changed.wait(min(_PROBE_SECONDS, left))

    @staticmethod
    def _foreign_port(program: Program, ready: ReadyConfig) -> str | None:
        """Say that another process serves the port, if one does: the program may have lost a race for it."""
        port = _ready_port(ready)
        if port is None or served_by(port, program.processes()) is not False:
            return None
        return f"port {port} is served by {server_of(port)}, which the program did not start"

    def _unready(self) -> str | None:
        """Say why the program is not ready, by its own sign; None if it is."""
        ready = self._options.ready
        if ready is None:
            return None
        if ready.line is not None:
            seen = any(text.seen for text in self._ready_texts.values())
            return None if seen else f"it has not printed {ready.line!r}"
        if ready.notify:
            said = self._notify is not None and self._notify.ready
            return None if said else "it has not said READY=1 (ready.notify)"
        if ready.tcp is not None:
            return port_trouble(int(ready.tcp))
        return None if ready.http is None else url_trouble(ready.http, _PROBE_TIMEOUT)

    def _last_output(self) -> str:
        with self._changed:
            shown = self._last_line
            begun = self._reader.unfinished() if self._reader is not None else None
            if begun is not None:
                shown = visible(self._begun.get(begun.stream, "") + begun.text).strip() or shown
        return f"its last output: {shown[:_LAST_LINE]}" if shown else "it has printed nothing"

    def _ending(self, program: Program, when: str = "") -> str | None:
        code = program.exit_code()
        if program.guard_lost:
            return "the process that guards the program was killed: the program is ended with all that it started"
        if code is None:
            return None
        with self._changed:
            # Its last words may still be on their way through the pipe.
            self._changed.wait_for(lambda: not self._output_open, timeout=0.5)
            words = f": {self._last_line}" if self._last_line else ""
        how = f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"
        return f"the program {how}{when}{words}"

    def _end(self, polite_seconds: float) -> None:
        program = self._program
        if program is None:
            return
        forced: str | None = None
        if polite_seconds > 0:
            # The children too: the program may be a shell that ends at once and passes nothing on to the bot.
            program.ask_to_stop(self._options.stop.signal)
            if not program.wait(polite_seconds):
                forced = (
                    f"the program did not stop within {polite_seconds:g} s of SIG{_signal_name(self._options.stop.signal)}; "
                    f"killed: {', '.join(program.left()) or f'pid {program.pid}'}"
                )
                logs.event(logger, logging.WARNING, "program_killed", forced, pid=program.pid)
        # Also after a polite end: a process that it started may trade on without it.
        gone = program.kill_all(_KILL_SECONDS)
        self._credentials_file.unlink(missing_ok=True)
        if not gone:
            raise RuntimeError(
                f"processes of the program could not be killed and may still trade: {', '.join(program.left())}"
            )
        if self._reading is not None:
            # Its last lines belong into the log; and nothing may read from what is closed next.
            self._reading.join(_LAST_OUTPUT_SECONDS)
        program.close()
        self._program = None
        if self._health is not None:
            self._health.close()
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        if forced is not None:
            raise ForcedEnd(forced)


def _signal_name(name: str) -> str:
    return name.upper().removeprefix("SIG")


def _is_below(directory: Path | None, state_dir: Path | None) -> bool:
    return directory is not None and state_dir is not None and directory.is_relative_to(state_dir)


def _ready_port(ready: ReadyConfig) -> int | None:
    """Return the port of this machine that shows that the program is ready, if one does."""
    if ready.tcp is not None:
        return int(ready.tcp)
    return None if ready.http is None else local_port(ready.http)
