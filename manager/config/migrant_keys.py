"""Table of other programs' keys that users may write in an account file.

Each row names the key with the same effect here, or says why there is none. `explain_unknown_key` uses the
table. `manager import` translates whole files of other supervisors.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class MigrantKey(NamedTuple):
    """One key of another program's configuration."""

    #: The program that has the key; empty for a name that many programs use.
    of: str
    #: Dotted keys of an account file with the same effect; empty if there are none.
    ours: tuple[str, ...]
    #: What to write, or why there is no such key and what to do instead.
    text: str


_SUPERVISORD: Final = "supervisord"
_PM2: Final = "PM2"
_COMPOSE: Final = "docker-compose"
_SYSTEMD: Final = "systemd"
_CIRCUS: Final = "circus"
_FREQTRADE: Final = "freqtrade"
_MTQ: Final = "TradingMTQ"

#: A key that many programs use.
_ANY: Final = ""

_LOGS: Final = (
    "the output goes to the worker's log, which rotates by itself; read it with `manager logs ACCOUNT`"
)
_ONE_PROCESS: Final = (
    "an account is one process: write one account file for each, and put what they share into defaults.yaml"
)
_ORDER: Final = "accounts start at the same time: let the program wait for what it needs"
_LIMITS: Final = (
    "write `limits: {memory_mb: 400}` to restart a worker above it, or `limits: {memory_hard_mb: 600}` to "
    "have it killed; `memory_mb` outside `limits` is the worker's share for placement"
)
_NO_LIMIT: Final = (
    "only memory, CPU, open files and processes are limited here (`limits`): limit the host agent's unit or "
    "container"
)
_ISOLATION: Final = (
    "a program is not isolated from its user's other processes: set this for the unit or container of the "
    "host agent"
)
_HOOK: Final = (
    "no other commands are run for a program: put it into a script, and let `command` run that script"
)
_OF_CONTAINER: Final = "a program runs on the host itself, not in a container"
_WHOLE_FILE: Final = "an account file is one program: run `manager import FILE` on the whole file"
_CRON: Final = "let cron run `manager restart ACCOUNT`"
_WATCH: Final = "files are not watched: run `manager restart ACCOUNT` after a change"
_EXIT_CODES: Final = (
    "a program that ends is restarted whatever its exit code; `recovery: {max_restarts: 0}` disables restarts"
)
_SIGNAL: Final = "write `stop: {signal: INT}`"
_DEADLINE: Final = "in seconds: write `stop: {deadline_seconds: 20}`"
_READY: Final = (
    "write `ready: {line: TEXT}`, `{tcp: PORT}`, `{http: URL}`, `{notify: true}` or `{after_seconds: 1}`"
)
_RESTARTS: Final = "write `recovery: {max_restarts: 10, window_seconds: 600}`; 0 disables restarts"
_PAUSE: Final = "in seconds, doubled at each further restart: write `recovery: {backoff_seconds: 1}`"
_ARGV: Final = "write program and arguments as one list, `command: [python3, bot.py, --live]`"
_ENVIRONMENT: Final = "write `environment: {NAME: value}`"
_REFERENCES: Final = (
    "write a reference, `environment: {API_KEY: file:secrets/NAME}`, or `options` "
    "for a gateway of another package"
)
_ONE_REFERENCE: Final = "write a reference, `password: file:secrets/NAME`"
_TO_FREQTRADE: Final = (
    "it belongs in freqtrade's own configuration file; here write `command: "
    "[freqtrade, trade, --config, FILE]`"
)
_NO_PIPS: Final = (
    "the strategy sets stops and targets: write it below `strategy: {params: {…}}` if the strategy reads it"
)
_NAME: Final = "the file's name is the account's id: rename the file to ID.yaml"


def _rows(of: str, names: str, ours: str, text: str) -> Iterable[tuple[str, MigrantKey]]:
    row = MigrantKey(of, tuple(ours.split()), text)
    return ((normal(name), row) for name in names.split())


def normal(key: str) -> str:
    """Return a key without case, `_`, `-` and dots.

    ExecStart, exec_start and exec-start are the same.
    """
    return "".join(letter for letter in key.casefold() if letter not in "_-.")


def _table(*groups: Iterable[tuple[str, MigrantKey]]) -> Mapping[str, MigrantKey]:
    """Return rows by `normal` name.

    Where two programs share a name, the first row with both programs.
    """
    found: dict[str, MigrantKey] = {}
    for name, row in (pair for rows in groups for pair in rows):
        before = found.get(name)
        if before is None:
            found[name] = row
        elif row.of not in before.of.split(", "):
            found[name] = before._replace(of=f"{before.of}, {row.of}")
    return found


#: Keys at the top of a file, by `normal` name.
TOP: Final[Mapping[str, MigrantKey]] = _table(
    *(
        # what runs
        _rows(_PM2, "script exec", "command", _ARGV),
        _rows(_PM2, "interpreter exec_interpreter interpreter_args node_args", "command", _ARGV),
        _rows(_CIRCUS, "cmd args shell_args", "command", _ARGV),
        _rows(_CIRCUS, "shell", "command", "for a shell write `command: [sh, -c, TEXT]`"),
        _rows(
            _CIRCUS,
            "virtualenv",
            "command",
            "name the environment's own program: `command: [/opt/venv/bin/python, bot.py]`",
        ),
        _rows(_PM2, "arguments argv", "command", _ARGV),
        _rows(_COMPOSE, "entrypoint", "command", _ARGV),
        _rows(_SYSTEMD, "ExecStart", "command", _ARGV),
        _rows(
            _SYSTEMD,
            "ExecStartPre ExecStartPost ExecStopPost ExecReload ExecCondition post_update hooks",
            "",
            _HOOK,
        ),
        _rows(_SYSTEMD, "ExecStop", "stop.signal", f"a stop is a signal: {_SIGNAL}"),
        _rows(_PM2, "cwd", "directory", "write `directory: /opt/bots`"),
        _rows(_COMPOSE, "working_dir workdir", "directory", "write `directory: /opt/bots`"),
        _rows(_SYSTEMD, "WorkingDirectory RootDirectory", "directory", "write `directory: /opt/bots`"),
        _rows(_PM2, "env environment_vars env_vars env_variables envs", "environment", _ENVIRONMENT),
        _rows(
            _PM2,
            "env_production env_development env_staging env_test",
            "environment",
            "there is one environment: write it as `environment: {NAME: value}`",
        ),
        _rows(_PM2, "port", "environment", "write `environment: {PORT: 8080}`, or an argument of `command`"),
        _rows(
            _CIRCUS,
            "copy_env copy_path filter_env PassEnvironment",
            "environment",
            "a program gets PATH, HOME, LANG and a few others, and what `environment` lists",
        ),
        _rows(
            _COMPOSE,
            "env_file dotenv",
            "environment_file",
            "write `environment_file: PATH` (NAME=value lines)",
        ),
        _rows(_SYSTEMD, "EnvironmentFile", "environment_file", "write `environment_file: PATH`"),
        _rows(_SYSTEMD, "UMask", "umask", "write `umask: '027'`"),
        _rows(_SYSTEMD, "User", "user", "write `user: NAME`; the host agent must run as root"),
        _rows(_SYSTEMD, "Group", "group", "write `group: NAME`; the host agent must run as root"),
        _rows(_CIRCUS, "uid run_as runas", "user", "write `user: NAME`; the host agent must run as root"),
        _rows(_CIRCUS, "gid", "group", "write `group: NAME`; the host agent must run as root"),
        # when it runs
        _rows(
            _SUPERVISORD,
            "autostart",
            "enabled",
            "write `enabled: true` or `false`; `start-all` skips a disabled "
            "account, and no command starts it",
        ),
        _rows(
            _SYSTEMD, "WantedBy on_demand", "enabled", "`manager up` and `start-all` start what is enabled"
        ),
        _rows(_ANY, "disabled active is_active is_enabled", "enabled", "write `enabled: true`"),
        _rows(
            _SUPERVISORD,
            "autorestart",
            "recovery.max_restarts",
            "a program that ends is restarted, 10 times in 600 s: "
            "`recovery: {max_restarts: 0}` disables restarts",
        ),
        _rows(
            _COMPOSE,
            "restart restart_policy",
            "recovery.max_restarts",
            "a program that ends is restarted, 10 times in 600 s: "
            "`recovery: {max_restarts: 0}` disables restarts",
        ),
        _rows(_CIRCUS, "respawn", "recovery.max_restarts", _RESTARTS),
        _rows(
            _SUPERVISORD,
            "startretries retries retry_attempts",
            "recovery.max_restarts recovery.window_seconds",
            _RESTARTS,
        ),
        _rows(_CIRCUS, "max_retry", "recovery.max_restarts recovery.window_seconds", _RESTARTS),
        _rows(_SYSTEMD, "StartLimitBurst", "recovery.max_restarts", _RESTARTS),
        _rows(_SYSTEMD, "StartLimitInterval StartLimitIntervalSec", "recovery.window_seconds", _RESTARTS),
        _rows(_PM2, "restart_delay exp_backoff_restart_delay", "recovery.backoff_seconds", _PAUSE),
        _rows(_SYSTEMD, "RestartSec retry_delay", "recovery.backoff_seconds", _PAUSE),
        _rows(_SYSTEMD, "RestartMaxDelaySec", "recovery.max_backoff_seconds", "in seconds"),
        _rows(
            _PM2,
            "min_uptime",
            "recovery.healthy_after_seconds",
            "in seconds: a worker that runs so long has recovered",
        ),
        _rows(
            _SUPERVISORD,
            "exitcodes stop_exit_codes SuccessExitStatus RestartPreventExitStatus",
            "recovery.max_restarts",
            _EXIT_CODES,
        ),
        _rows(
            _SUPERVISORD,
            "startsecs",
            "ready.after_seconds",
            f"write `ready: {{after_seconds: 1}}`, or better one of these: {_READY.removeprefix('write ')}",
        ),
        _rows(_PM2, "wait_ready", "ready", _READY),
        _rows(_SYSTEMD, "Type NotifyAccess", "ready.notify", "for sd_notify write `ready: {notify: true}`"),
        _rows(
            "Kubernetes",
            "readinessProbe startupProbe",
            "ready",
            "write `ready: {tcp: PORT}` or `{http: URL}`",
        ),
        _rows(_PM2, "listen_timeout", "timeout", "in milliseconds: how long a start may take"),
        _rows(_SYSTEMD, "TimeoutStartSec", "timeout", "in milliseconds: how long a start may take"),
        _rows(
            _SYSTEMD,
            "TimeoutSec",
            "timeout stop.deadline_seconds",
            "write `timeout: 60000` (milliseconds) for the start, `stop: {deadline_seconds: "
            "20}` for the stop",
        ),
        # how it stops
        _rows(_SUPERVISORD, "stopsignal", "stop.signal", _SIGNAL),
        _rows(_COMPOSE, "stop_signal", "stop.signal", _SIGNAL),
        _rows(_SYSTEMD, "KillSignal", "stop.signal", _SIGNAL),
        _rows(_CIRCUS, "send_hup", "stop.signal", "write `stop: {signal: HUP}` if the program ends by it"),
        _rows(
            _PM2,
            "shutdown_with_message",
            "stop.signal",
            "a program is sent a signal, not a message: handle it in the program",
        ),
        _rows(_SUPERVISORD, "stopwaitsecs", "stop.deadline_seconds", _DEADLINE),
        _rows(_PM2, "kill_timeout", "stop.deadline_seconds", _DEADLINE),
        _rows(_COMPOSE, "stop_grace_period", "stop.deadline_seconds", _DEADLINE),
        _rows(_CIRCUS, "graceful_timeout stop_timeout", "stop.deadline_seconds", _DEADLINE),
        _rows(_SYSTEMD, "TimeoutStopSec", "stop.deadline_seconds", _DEADLINE),
        _rows("Kubernetes", "terminationGracePeriodSeconds", "stop.deadline_seconds", _DEADLINE),
        _rows(
            _SUPERVISORD,
            "stopasgroup killasgroup stop_children treekill KillMode SendSIGKILL",
            "stop",
            "the signal always goes to every process that the program started, and "
            "processes left at the deadline are killed",
        ),
        # whether it is healthy
        _rows(
            _SYSTEMD,
            "WatchdogSec",
            "health.watchdog_seconds",
            "write `ready: {notify: true}` and `health: {watchdog_seconds: 30}`",
        ),
        _rows(
            _COMPOSE,
            "healthcheck health_check livenessProbe check",
            "health.probe recovery.restart_unhealthy",
            "no command is run: write `health: {probe: {tcp: PORT}}` or `{probe: {http: URL}}`, and "
            "`recovery: {restart_unhealthy: true}` to restart it",
        ),
        _rows(
            _PM2,
            "max_memory_restart",
            "limits.memory_mb",
            "in megabytes: write `limits: {memory_mb: 300}`",
        ),
        _rows(
            _COMPOSE, "mem_limit memory mem_reservation", "limits.memory_mb limits.memory_hard_mb", _LIMITS
        ),
        _rows(
            _SYSTEMD, "MemoryMax MemoryHigh MemoryLimit", "limits.memory_mb limits.memory_hard_mb", _LIMITS
        ),
        _rows(
            _COMPOSE,
            "cpus cpu_quota CPUQuota",
            "limits.cpu_percent",
            "in percent of one core: write `limits: {cpu_percent: 80, on_exceed: throttle}`",
        ),
        _rows(
            _COMPOSE,
            "pids_limit TasksMax LimitNPROC rlimit_nproc",
            "limits.processes",
            "processes are counted, not threads: write `limits: {processes: 64}`",
        ),
        _rows(
            _COMPOSE,
            "ulimits LimitNOFILE rlimit_nofile",
            "limits.open_files",
            "write `limits: {open_files: 1024}`",
        ),
        _rows(
            _COMPOSE,
            "cpu_shares cpuset resources blkio_config oom_score_adj nice CPUWeight CPUAffinity Nice IOWeight "
            "OOMScoreAdjust LimitCORE LimitAS LimitMEMLOCK rlimit rlimit_core rlimit_as",
            "",
            _NO_LIMIT,
        ),
        _rows(_CIRCUS, "max_age max_age_variance RuntimeMaxSec", "", f"age triggers no restart: {_CRON}"),
        _rows(_PM2, "cron cron_restart schedule", "", f"restarts cannot be scheduled: {_CRON}"),
        _rows(_PM2, "watch ignore_watch watch_delay watch_options autoreload", "", _WATCH),
        # how many, and in which order
        _rows(_SUPERVISORD, "numprocs numprocs_start", "", _ONE_PROCESS),
        _rows(_PM2, "instances exec_mode instance_var increment_var", "", _ONE_PROCESS),
        _rows(_CIRCUS, "numprocesses singleton", "", _ONE_PROCESS),
        _rows(_COMPOSE, "scale replicas count deploy", "", _ONE_PROCESS),
        _rows(_SUPERVISORD, "priority", "", _ORDER),
        _rows(_COMPOSE, "depends_on links", "", _ORDER),
        _rows(_SYSTEMD, "After Before Wants Requires BindsTo PartOf Conflicts", "", _ORDER),
        _rows(_CIRCUS, "warmup_delay", "", _ORDER),
        _rows(_PM2, "namespace", "groups", "write `groups: [NAME]`: `manager start --group NAME` selects it"),
        _rows(
            _COMPOSE, "profiles", "groups", "write `groups: [NAME]`: `manager start --group NAME` selects it"
        ),
        _rows(_ANY, "tags group_name", "groups labels", "write `groups: [NAME]` or `labels: {KEY: VALUE}`"),
        # names
        _rows(_PM2, "name name_prefix bot_name", "", _NAME),
        _rows(_SUPERVISORD, "process_name program_name program", "", _NAME),
        _rows(_COMPOSE, "container_name hostname", "", _NAME),
        _rows(_SYSTEMD, "Description Documentation SyslogIdentifier Alias", "", f"write a comment; {_NAME}"),
        _rows(_ANY, "id account account_name", "", _NAME),
        # output
        _rows(
            _SUPERVISORD,
            "stdout_logfile stdout_logfile_maxbytes stdout_logfile_backups "
            "stdout_capture_maxbytes stdout_syslog "
            "stderr_logfile stderr_logfile_maxbytes stderr_logfile_backups "
            "stderr_capture_maxbytes stderr_syslog "
            "redirect_stderr logfile",
            "",
            _LOGS,
        ),
        _rows(
            _SUPERVISORD,
            "stdout_events_enabled stderr_events_enabled serverurl events",
            "",
            "programs do not communicate with the manager: follow `manager events --json` instead",
        ),
        _rows(
            _PM2,
            "out_file error_file log_file output error log log_date_format log_type "
            "combine_logs merge_logs time",
            "",
            _LOGS,
        ),
        _rows(_CIRCUS, "stdout_stream stderr_stream", "", _LOGS),
        _rows(_COMPOSE, "logging", "", _LOGS),
        _rows(_SYSTEMD, "StandardOutput StandardError StandardInput", "", _LOGS),
        _rows(_PM2, "pid_file PIDFile", "", "`manager ps` shows the pid"),
        # containers and isolation
        _rows(
            _COMPOSE,
            "image build",
            "command",
            f"{_OF_CONTAINER}: install what the image holds on the host, and write "
            f"{_ARGV.removeprefix('write ')}",
        ),
        _rows(_COMPOSE, "volumes tmpfs shm_size", "", f"{_OF_CONTAINER}: use the host's paths"),
        _rows(
            _COMPOSE,
            "ports expose",
            "",
            f"{_OF_CONTAINER}: the program listens on the port that it opens itself",
        ),
        _rows(
            _COMPOSE,
            "networks network_mode extra_hosts dns init tty stdin_open pull_policy platform extends",
            "",
            f"{_OF_CONTAINER}: leave it out",
        ),
        _rows(
            _COMPOSE,
            "secrets",
            "environment",
            "put each secret into a file (mode 0600): `environment: {NAME: file:secrets/NAME}`",
        ),
        _rows(_COMPOSE, "configs", "", f"{_OF_CONTAINER}: put these files on the host"),
        _rows(
            _COMPOSE,
            "cap_add cap_drop privileged security_opt read_only devices sysctls PrivateTmp "
            "ProtectSystem ProtectHome "
            "NoNewPrivileges ReadWritePaths ReadOnlyPaths AmbientCapabilities "
            "CapabilityBoundingSet PrivateDevices "
            "RestrictAddressFamilies SystemCallFilter DynamicUser Slice",
            "",
            _ISOLATION,
        ),
        _rows(
            _SYSTEMD,
            "RemainAfterExit OnFailure",
            "",
            "a program that ends is restarted; follow `manager events --json`",
        ),
        _rows(_CIRCUS, "use_sockets close_child_stdin", "", "let the program open its own sockets"),
        # whole files
        _rows(_PM2, "apps", "", _WHOLE_FILE),
        _rows(_COMPOSE, "services", "", _WHOLE_FILE),
        _rows(_SUPERVISORD, "programs supervisord", "", _WHOLE_FILE),
        _rows(
            _SYSTEMD,
            "Service Unit Install",
            "command directory environment ready stop",
            "write the keys of its sections here",
        ),
        _rows(_COMPOSE, "version", "", "account files have no version: leave it out"),
        # bots
        _rows(
            _FREQTRADE,
            "exchange pair_whitelist api_server telegram stake_amount stake_currency "
            "max_open_trades internals "
            "dry_run dry_run_wallet minimal_roi stoploss pairlists trading_mode margin_mode user_data_dir",
            "command",
            _TO_FREQTRADE,
        ),
        _rows(
            _MTQ,
            "platform_type platform type_of_platform",
            "gateway",
            "write `gateway: NAME`, the name of a gateway",
        ),
        _rows(_MTQ, "risk risk_management", "default_risk", "write `default_risk: {risk_percent: 1.0}`"),
        _rows(
            _MTQ,
            "default_strategy",
            "strategy",
            "write `strategy: {strategy_type: simple_ma, timeframe: M5, params: {…}}`",
        ),
        _rows(_MTQ, "default_execution", "execution", "write `execution: {interval_seconds: 30}`"),
        _rows(
            _MTQ,
            "default_position_management modifications",
            "position_management",
            "it has the same keys",
        ),
        _rows(
            _MTQ,
            "default_currency_settings default_currency",
            "default_risk strategy position_management",
            "these three are the defaults of every currency",
        ),
        _rows(
            _MTQ,
            "global",
            "default_risk execution",
            "write `default_risk: {max_concurrent_trades: 15}`, `execution: {interval_seconds: 30}`",
        ),
        _rows(_MTQ, "emergency notifications", "", "not available: follow `manager events --json`"),
        _rows(
            _MTQ, "connection mt5", "server login password path timeout", "write these at the top of the file"
        ),
        _rows(_MTQ, "stop_loss_pips take_profit_pips sl_pips tp_pips", "strategy.params", _NO_PIPS),
        _rows(
            _ANY,
            "account_number account_login username user_name login_id account_no",
            "login",
            "write `login: 5001`",
        ),
        _rows(_ANY, "broker broker_server server_name host_name", "server", "write `server: NAME`"),
        _rows(_ANY, "passwd pass pwd password_file", "password", _ONE_REFERENCE),
        _rows(
            _ANY,
            "terminal terminal_path mt5_path executable exe",
            "path",
            "the terminal's program; for any other program use `command`",
        ),
        _rows(
            _ANY,
            "api_key apikey api_secret apisecret secret secret_key key token passphrase credentials",
            "environment options",
            _REFERENCES,
        ),
        _rows(
            _ANY, "symbols symbol pairs instruments", "currencies", "write `currencies: [{symbol: EURUSD}]`"
        ),
    )
)

#: Keys within a section, by the section's last name, then by `normal` name.
#: `ours` is relative to the section.
WITHIN: Final[Mapping[str, Mapping[str, MigrantKey]]] = {
    section: _table(*groups)
    for section, groups in {
        "stop": (
            _rows(
                _SUPERVISORD,
                "timeout stopwaitsecs kill_timeout grace_period wait seconds timeout_seconds wait_seconds",
                "deadline_seconds",
                "in seconds",
            ),
            _rows(_SUPERVISORD, "stopsignal kill_signal sig", "signal", "write `signal: INT`"),
            _rows(_SYSTEMD, "command ExecStop exec", "signal", "a stop is a signal, not a command"),
        ),
        "ready": (
            _rows(_COMPOSE, "port", "tcp", "write `tcp: PORT`"),
            _rows(_COMPOSE, "url", "http", "write `http: URL`"),
            _rows(_COMPOSE, "text log output regex pattern message", "line", "a text in the output"),
            _rows(_SYSTEMD, "sd_notify type", "notify", "write `notify: true`"),
            _rows(_SUPERVISORD, "seconds startsecs delay after", "after_seconds", "write `after_seconds: 1`"),
            _rows(
                _COMPOSE,
                "timeout start_period timeout_seconds",
                "",
                "the account's `timeout` (milliseconds) applies",
            ),
        ),
        "probe": (
            _rows(_COMPOSE, "port", "tcp", "write `tcp: PORT`"),
            _rows(_COMPOSE, "url", "http", "write `http: URL`"),
            _rows(_COMPOSE, "interval", "interval_seconds", "in seconds"),
            _rows(_COMPOSE, "timeout", "timeout_seconds", "in seconds"),
            _rows(_COMPOSE, "retries failure_threshold threshold", "failures", "failed probes in a row"),
            _rows(
                _COMPOSE,
                "test command cmd exec",
                "http",
                "no command is run: write `tcp: PORT` or `http: URL`",
            ),
        ),
        "health": (
            _rows(_SYSTEMD, "watchdog WatchdogSec", "watchdog_seconds", "in seconds"),
            _rows(_COMPOSE, "tcp http port url test healthcheck", "probe", "write `probe: {tcp: PORT}`"),
            _rows(_COMPOSE, "line", "line_every", "write `line_every: {line: TEXT, seconds: 60}`"),
        ),
        "recovery": (
            _rows(
                _COMPOSE,
                "max_attempts retries startretries max_retries attempts enabled autorestart policy restart",
                "max_restarts",
                "0 disables restarts",
            ),
            _rows(_COMPOSE, "delay restart_delay RestartSec restart_sec", "backoff_seconds", "in seconds"),
            _rows(_COMPOSE, "window", "window_seconds", "in seconds"),
            _rows(_PM2, "min_uptime", "healthy_after_seconds", "in seconds"),
        ),
        "execution": (
            _rows(
                _MTQ,
                "parallel_execution max_workers use_intelligent_position_manager "
                "use_ml_enhancement use_sentiment_filter",
                "",
                "leave it out: a session trades its symbols in turn, by its strategy",
            ),
            _rows(_MTQ, "interval", "interval_seconds", "in seconds"),
            _rows(_MTQ, "stop_timeout", "stop_timeout_seconds", "in seconds"),
        ),
        "risk": (
            _rows(
                _MTQ,
                "stop_loss_pips take_profit_pips sl_pips tp_pips use_dynamic_sizing "
                "max_position_size min_position_size",
                "",
                _NO_PIPS,
            ),
            _rows(
                _MTQ,
                "max_trades max_concurrent max_open_trades",
                "max_concurrent_trades",
                "open trades at once",
            ),
            _rows(_MTQ, "risk_per_trade risk", "risk_percent", "percent of the balance"),
        ),
        "position_management": (
            _rows(_MTQ, "enable_trailing_stop trailing_stop trailing", "enable_trailing", "true or false"),
            _rows(_MTQ, "breakeven", "enable_breakeven", "true or false"),
            _rows(
                _MTQ,
                "breakeven_trigger_pips breakeven_offset_pips trailing_start_pips trailing_distance_pips "
                "trailing_stop_pips trailing_activation_pips enable_partial_close partial_close_percent "
                "partial_close_profit_pips partial_close_trigger_pips enable_dynamic_tp",
                "",
                _NO_PIPS,
            ),
        ),
        "strategy": (
            _rows(_MTQ, "type name strategy", "strategy_type", "write `strategy_type: simple_ma`"),
            _rows(_MTQ, "parameters options settings config", "params", "write `params: {fast_period: 10}`"),
        ),
        "currencies": (
            _rows(_MTQ, "pair instrument name currency", "symbol", "write `symbol: EURUSD`"),
            _rows(_MTQ, "default_risk risk_management", "risk", "write `risk: {risk_percent: 1.0}`"),
            _rows(_MTQ, "execution cooldown_seconds trading_hours trade_on_signal_change", "", _NO_PIPS),
            _rows(
                _MTQ,
                "sl_pips tp_pips stop_loss_pips take_profit_pips max_position_size min_position_size",
                "strategy.params",
                _NO_PIPS,
            ),
        ),
    }.items()
}
