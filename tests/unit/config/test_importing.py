"""Files of other supervisors are translated, with notes about keys that cannot be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manager.config.document import parse_document
from manager.config.importing import Draft, Note, SourceFile, Translation, account_files, translate
from manager.config.merge import merge
from manager.config.models import BUILT_IN, AccountConfig
from manager.errors import ImportSourceError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importing"
HERE = "/srv/bots"


def source(name: str, text: str | None = None, **variables: str) -> SourceFile:
    """Return a fixture as a file in HERE, with its own or another text."""
    files = {f"{HERE}/{path.relative_to(FIXTURES)}": path for path in FIXTURES.rglob("*") if path.is_file()}

    def read(path: str) -> str | None:
        return files[path].read_text() if path in files else None

    def glob(pattern: str) -> list[str]:
        import fnmatch

        return fnmatch.filter(files, pattern)

    return SourceFile(
        name, HERE, (FIXTURES / name).read_text() if text is None else text, read, glob, variables
    )


def written(translation: Translation) -> dict[str, dict[str, Any]]:
    """Return all account files as parsed data, after a check with the model."""
    found: dict[str, dict[str, Any]] = {}
    for draft in translation.drafts:
        text = next(iter(account_files(draft).values()))
        document = parse_document(text, text.encode(), draft.account_id)
        assert not document.problems, document.problems
        assert document.data is not None
        AccountConfig.model_validate({**merge(BUILT_IN, document.data), "account_id": draft.account_id})
        found[draft.account_id] = document.data
    return found


def lost(translation: Translation) -> dict[str, Note]:
    return {note.key: note for note in translation.notes if note.changes_behaviour}


def noted(translation: Translation) -> dict[str, Note]:
    return {note.key: note for note in translation.notes if not note.changes_behaviour}


SHARED = {"EXCHANGE": "kraken", "TZ": "UTC"}


def test_supervisord_programs_become_accounts() -> None:
    _, translation = translate(source("supervisord.conf", BOT_HOME="/opt/bots", REGION="eu", FEED_TOKEN="x"))
    accounts = written(translation)
    assert list(accounts) == ["grid_01", "grid_02", "once", "feed", "arb-itrage"]
    assert accounts["grid_01"] == {
        "gateway": "command",
        "groups": ["desk"],
        "command": ["/bin/sh", "-c", "exec sleep 600"],
        "directory": HERE,
        "user": "trader",
        "ready": {"after_seconds": 20},
        "stop": {"signal": "INT", "deadline_seconds": 45},
        "recovery": {"max_restarts": 3, "window_seconds": 83},
        "environment": {
            **SHARED,
            "LOG_LEVEL": "info",
            "PATTERN": "100%",
            "BOT_NUM": "1",
            "API_KEY": "file:secrets/grid_01.API_KEY",
            "API_SECRET": "file:secrets/grid_01.API_SECRET",
            "DB_URL": "file:secrets/grid_01.DB_URL",
        },
    }
    assert accounts["grid_02"]["environment"]["BOT_NUM"] == "2"
    assert accounts["once"] == {
        "enabled": False,
        "gateway": "command",
        "command": ["/bin/echo", "done"],
        "ready": {"after_seconds": 0},
        "stop": {"deadline_seconds": 10},
        "environment": SHARED,
    }
    assert accounts["feed"] == {
        "gateway": "command",
        "groups": ["desk"],
        "command": ["/opt/bots/feed", "--region", "eu"],
        "ready": {"after_seconds": 1},
        "stop": {"deadline_seconds": 10},
        "recovery": {"max_restarts": 0},
        "environment": {**SHARED, "TOKEN": "env:FEED_TOKEN"},
    }
    assert accounts["arb-itrage"]["umask"] == "077"
    assert accounts["arb-itrage"]["stop"] == {"signal": "INT", "deadline_seconds": 10}
    assert (accounts["arb-itrage"]["ready"], accounts["arb-itrage"]["timeout"]) == (
        {"after_seconds": 600},
        600_000,
    )


def test_supervisord_notes_name_key_line_and_file() -> None:
    _, translation = translate(source("supervisord.conf", BOT_HOME="/opt/bots"))
    found = {key: (note.file, note.line) for key, note in lost(translation).items()}
    expected = {
        "[program:once] exitcodes": ("supervisord.conf", 41),
        "[program:feed] stderr_events_enabled": ("supervisord.conf", 48),
        "[program:feed] ENV_REGION": ("supervisord.conf", 44),
        "[eventlistener:crashmail]": ("supervisord.conf", 53),
        "[include] files": ("supervisord.conf", 58),
        "[program:arb itrage] startsecs": ("conf.d/arbitrage.conf", 4),
    }
    assert found == expected
    assert {"[program:grid] stdout_logfile", "[program:grid] priority"} < noted(translation).keys()
    feed = next(draft for draft in translation.drafts if draft.account_id == "feed")
    assert any("ENV_REGION" in what for what in feed.to_do)
    assert any("FEED_TOKEN" in what for what in feed.to_do)
    assert written(translation)["feed"]["enabled"] is False


def test_pm2_apps_become_accounts() -> None:
    kind, translation = translate(source("ecosystem.config.json"), environment="production")
    accounts = written(translation)
    assert kind == "pm2"
    assert list(accounts) == ["market-maker-0", "market-maker-1", "signals", "cli", "account-con"]
    assert accounts["market-maker-1"] == {
        "gateway": "command",
        "groups": ["crypto", "market-maker"],
        "command": [
            *("node", "--max-old-space-size=256", "./bots/mm.js"),
            *("--pair", "BTC/USD", "--mode", "post only"),
        ],
        "directory": "/",
        "ready": {"after_seconds": 15},
        "stop": {"signal": "INT", "deadline_seconds": 5},
        "recovery": {
            "backoff_seconds": 4,
            "max_backoff_seconds": 4,
            "max_restarts": 5,
            "window_seconds": 106,
        },
        "memory_mb": 300,
        "limits": {"memory_mb": 300, "when_flat": False},
        "environment": {
            "NODE_APP_INSTANCE": "1",
            "NODE_ENV": "production",
            "PORT": "3000",
            "DRY_RUN": "true",
            "API_TOKEN": "file:secrets/market-maker-1.API_TOKEN",
        },
    }
    assert translation.drafts[0].secrets == {"API_TOKEN": "tok-live"}
    assert accounts["signals"] == {
        "gateway": "command",
        "command": ["/bin/sh", "signals.py", "--once", "3"],
        "directory": HERE,
        "ready": {"after_seconds": 1},
        "stop": {"signal": "INT"},
        "recovery": {"max_restarts": 0},
    }
    assert accounts["cli"]["command"] == ["bash", "-c", "sleep 600 && echo over"]
    keys = {key: note.line for key, note in lost(translation).items()}
    assert keys == {
        "market maker.exec_mode": 10,
        "market maker.max_memory_restart": 14,
        "market maker.wait_ready": 19,
        "market maker.cron_restart": 21,
        "market maker.watch": 22,
        "con.instances": 34,
        "nothing.script": None,
    }


def test_pm2_says_which_environment_it_left_out() -> None:
    _, translation = translate(source("ecosystem.config.json"))
    assert "--env production" in lost(translation)["market maker.env_production"].text
    assert written(translation)["market-maker-0"]["environment"]["NODE_ENV"] == "development"


def test_compose_services_wait_for_a_person() -> None:
    kind, translation = translate(source("docker-compose.yml"))
    accounts = written(translation)
    assert kind == "compose"
    assert list(accounts) == ["freqtrade", "bot-1", "bot-2", "redis"]
    assert not any(account["enabled"] for account in accounts.values())
    freqtrade = accounts["freqtrade"]
    assert freqtrade["command"] == [
        *("trade", "--config", "/freqtrade/user_data/config.json", "--strategy", "My Strategy")
    ]
    # Values of the merge key and defaults of interpolations are used.
    assert freqtrade["stop"] == {"signal": "INT", "deadline_seconds": 90}
    assert "recovery" not in freqtrade
    assert (freqtrade["user"], freqtrade["group"]) == ("1000", "1000")
    # The file is not copied: the host reads it in place.
    assert freqtrade["environment_file"] == [f"{HERE}/bot.env"]
    assert freqtrade["environment"] == {
        "FREQTRADE__EXCHANGE__KEY": "env:BINANCE_KEY",
        "FREQTRADE__EXCHANGE__SECRET": "file:secrets/freqtrade.FREQTRADE__EXCHANGE__SECRET",
        "LOG_LEVEL": "info",
        "COST": "5$",
        "PASSED": "env:PASSED",
    }
    assert accounts["bot-2"] == {
        "enabled": False,
        "gateway": "command",
        "groups": ["bot"],
        "command": ["/bin/sleep", "600"],
        "directory": HERE,
        "ready": {"after_seconds": 1},
        "recovery": {"max_restarts": 5},
        "memory_mb": 256,
        "limits": {"memory_hard_mb": 256},
        "environment": {"DEBUG": "false", "MODE": "paper", "URL": "file:secrets/bot-2.URL"},
    }
    secrets = {draft.account_id: draft.secrets for draft in translation.drafts}
    assert "TELEGRAM_TOKEN" not in secrets["freqtrade"]
    assert secrets["bot-1"] == {"URL": "redis://:hunter33@redis:6379/0"}
    assert accounts["redis"]["recovery"] == {"max_restarts": 0}
    keys = {key: note.line for key, note in lost(translation).items()}
    assert keys["services.freqtrade.image"] == 10
    assert keys["services.freqtrade.volumes"] == 13
    assert keys["services.bot.build"] == 28
    assert "http://localhost:8080/api/v1/ping" in noted(translation)["services.freqtrade.healthcheck"].text


@pytest.mark.parametrize("name", ["supervisord.conf", "ecosystem.config.json", "docker-compose.yml"])
def test_no_secret_is_in_an_account_file_or_a_note(name: str) -> None:
    _, translation = translate(source(name), environment="production")
    texts = [
        text
        for draft in translation.drafts
        for path, text in account_files(draft).items()
        if "accounts/" in path
    ]
    shown = "\n".join([*texts, *map(str, translation.notes), repr(translation)])
    for secret in ("k-live-0001", "s,e=c", "hunter", "tok-", "abc-live", "12:abc"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("ecosystem.config.js", "module.exports = {apps: []}", "node -p"),
        ("ecosystem.config.json", "module.exports = {apps: []}", "node -p"),
        ("ecosystem.config.json", "{apps: []}", "ecosystem.config.json:1:2: not JSON"),
        ("ecosystem.config.json", '{"apps": [{"script": "a\\u0000"}]}', "NUL character"),
        ("ecosystem.config.json", '{"apps": "mine"}', "`apps` is missing"),
        ("ecosystem.config.json", "[" * 100_000, "not JSON"),
        ("docker-compose.yml", "services: [", "docker-compose.yml:"),
        ("docker-compose.yml", "version: 3", "`services` is missing"),
        ("docker-compose.yml", "", "is empty"),
        ("docker-compose.yml", "services: &a {b: *a}", "recursive"),
        ("docker-compose.yml", "services: {a: !reset {}}", "not YAML"),
        (
            "docker-compose.yml",
            "".join(
                [f"x{n}: &x{n} [{', '.join(['v' if n == 0 else f'*x{n - 1}'] * 10)}]\n" for n in range(9)]
                + ["services: {bot: {command: *x8}}\n"]
            ),
            "too large",
        ),
        ("supervisord.conf", "[program:x]\ncommand\npassword hunter22\n", "line 2 is neither"),
        ("supervisord.conf", "[supervisord]\n", "no program was found"),
        ("supervisord.conf", "[program:x]\ncommand=a\nnumprocs=6000\n", "more than 5000 programs"),
        ("bots.txt", "hello", "--format"),
    ],
)
def test_what_cannot_be_read_is_refused_with_one_clear_line(name: str, text: str, says: str) -> None:
    with pytest.raises(ImportSourceError) as raised:
        translate(source(name, text))
    assert says in str(raised.value)
    assert "hunter22" not in str(raised.value)


def one(name: str, text: str, **variables: str) -> tuple[Draft, Translation]:
    _, translation = translate(source(name, text, **variables))
    (draft,) = translation.drafts
    written(translation)
    return draft, translation


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("stopsignal=SIGUSR2", {"stop": {"signal": "USR2", "deadline_seconds": 10}}),
        ("stopwaitsecs=99999", {"stop": {"deadline_seconds": 3600}}),
        ("stopwaitsecs=0", {"stop": {"deadline_seconds": 0.1}}),
        ("startretries=0", {"recovery": {"max_restarts": 1, "window_seconds": 2}}),
        ("command=a '%(program_name)s' %% %(numprocs)03d", {"command": ["a", "bot", "%", "001"]}),
        ("numprocs=x", {}),
    ],
)
def test_supervisord_values_at_their_limits(line: str, values: Mapping[str, Any]) -> None:
    draft, _ = one("supervisord.conf", f"[program:bot]\ncommand=bot\n{line}\n")
    assert {key: draft.values[key] for key in values} == values


def test_a_value_that_looks_like_a_reference_is_marked_as_text() -> None:
    draft, _ = one("supervisord.conf", '[program:bot]\ncommand=bot\nenvironment=DB="file:bot.db"\n')
    assert draft.environment == {"DB": "literal:file:bot.db"}


def test_variables_of_the_manager_are_not_imported() -> None:
    draft, translation = one(
        "supervisord.conf", "[program:bot]\ncommand=bot\nenvironment=MANAGER_HOST=x,A=1\n"
    )
    assert draft.environment == {"A": "1"}
    assert "[program:bot] environment MANAGER_HOST" in lost(translation)


def test_a_secret_in_the_arguments_is_named_and_not_put_in_from_the_environment() -> None:
    draft, translation = one(
        "supervisord.conf", "[program:bot]\ncommand=bot --token %(ENV_BOT_TOKEN)s\n", BOT_TOKEN="tok-live"
    )
    assert draft.values["command"] == ["bot", "--token", "%(ENV_BOT_TOKEN)s"]
    assert draft.to_do
    _, translation = one("supervisord.conf", "[program:bot]\ncommand=bot --api-key k-live-0001\n")
    assert "arguments" in noted(translation)["[program:bot] command"].text


def test_ids_are_valid_and_no_two_alike() -> None:
    apps = [
        {"name": name, "script": "a"} for name in ("A b", "a-b", "a b", "..", "x" * 80, "x" * 81, "nul.x")
    ]
    _, translation = translate(source("ecosystem.config.json", json.dumps({"apps": apps})))
    ids = [draft.account_id for draft in translation.drafts]
    assert ids[:4] == ["A-b", "a-b-2", "a-b-3", "account"]
    assert [len(ids[4]), len(ids[5])] == [64, 60]
    assert ids[6] == "account-nul.x"


def test_json_with_tabs_and_pm2s_yaml_are_read_with_lines() -> None:
    _, tabs = translate(
        source("ecosystem.config.json", '{\n\t"apps": [\n\t{"script": "a.js",\n\t"watch": true}]}')
    )
    assert lost(tabs)["a.js.watch"].line == 4
    kind, yaml = translate(source("pm2.yml", "apps:\n  - script: a.js\n    cron_restart: '0 * * * *'\n"))
    assert (kind, lost(yaml)["a.js.cron_restart"].line) == ("pm2", 3)


def test_pm2_names_of_one_key_and_an_app_that_is_not_started() -> None:
    draft, translation = one(
        "ecosystem.config.json",
        json.dumps({"apps": [{"exec": "/bin/true", "autostart": False, "cron": "0 * * * *", "out": "x"}]}),
    )
    assert (draft.values["command"], draft.values["enabled"]) == (["/bin/true"], False)
    assert lost(translation).keys() == {"true.cron"}


@pytest.mark.parametrize(
    ("lines", "umask"),
    [("umask=027", "027"), ("umask=22", None), ("umask=0", "000"), ("umask=9", None), ("", "002")],
)
def test_supervisords_umask(lines: str, umask: str | None) -> None:
    main = "[supervisord]\numask=002\n" if not lines else ""
    draft, translation = one("supervisord.conf", f"{main}[program:bot]\ncommand=bot\n{lines}\n")
    assert draft.values.get("umask") == umask
    assert ("[program:bot] umask" in lost(translation)) == (lines == "umask=9")


def test_pm2s_env_file_and_user_become_keys_of_ours() -> None:
    app = {"script": "/bin/true", "env_file": "bot.env", "uid": 1000, "gid": "bots"}
    draft, translation = one("ecosystem.config.json", json.dumps({"apps": [app]}))
    assert draft.values["environment_file"] == [f"{HERE}/bot.env"]
    assert (draft.values["user"], draft.values["group"]) == ("1000", "bots")
    assert lost(translation) == {}
    draft, translation = one("ecosystem.config.json", json.dumps({"apps": [{**app, "env_file": "none.env"}]}))
    assert "none.env: cannot be read" in lost(translation)["true.env_file"].text
    assert draft.to_do


def test_a_file_that_compose_would_expand_is_read_at_the_import() -> None:
    text = "services: {bot: {image: bot, command: bot, env_file: [bot.env, x.env]}}"
    files = {f"{HERE}/bot.env": "A=1\n", f"{HERE}/x.env": "B=${HOME}/x\n"}
    _, translation = translate(SourceFile("docker-compose.yml", HERE, text, files.get))
    (draft,) = translation.drafts
    assert draft.values["environment_file"] == [f"{HERE}/bot.env"]
    assert draft.environment == {"B": "${HOME}/x"}


def test_braces_of_another_supervisor_are_no_placeholders() -> None:
    text = '[program:bot]\ncommand=bot --user {login} {"a":{password}}\nenvironment=A="{server}"\n'
    draft, translation = one("supervisord.conf", text)
    assert draft.values["command"][2] == "{login}"
    account = written(translation)["bot"]
    assert account["command"][2:] == ["{{login}}", "{a:{{password}}}"]
    assert account["environment"] == {"A": "{{server}}"}


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    st.lists(_TEXT, min_size=1, max_size=4),
    st.dictionaries(st.from_regex(r"[A-Z]{1,8}", fullmatch=True), _TEXT),
)
@example(["_0", "-_1.5"], {"A": "__1e5"})
def test_whatever_a_value_holds_the_account_file_holds_it_unchanged(
    command: list[str], variables: dict[str, str]
) -> None:
    draft = Draft("bot", "a\ntest: &x", {"command": command})
    for name, value in variables.items():
        draft.set_variable(name, value)
    files = account_files(draft)
    text = files.pop("accounts/bot.yaml")
    document = parse_document(text, text.encode(), "bot.yaml")
    assert not document.problems
    assert document.data is not None
    environment = document.data.get("environment", {})
    for name, value in variables.items():
        found = environment[name]
        if name in draft.secrets:
            assert files[found.removeprefix("file:")] == value + "\n"
        else:
            assert found.removeprefix("literal:") == value or found == value
    assert document.data["command"] == command
