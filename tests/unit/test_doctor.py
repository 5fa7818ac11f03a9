"""`manager doctor` on hosts and accounts, and the form of its output."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from support.configs import GOOD, Directory
from support.servers import RedisServer

from manager import __version__
from manager.cli.main import cli
from manager.doctor import CODES, Check, run_checks
from manager.fleet import FleetStore
from manager.market.clocks import tz_database_version
from manager.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def settings(redis_server: RedisServer, short_dir: Path) -> Settings:
    directory = Directory(short_dir / "config")
    return Settings(
        redis_url=SecretStr(redis_server.url), config_dir=directory.root, state_dir=short_dir / "s", host="h"
    )


def report(settings: Settings, host: str, **data: Any) -> None:
    """Report a live host, as its agent does."""
    assert settings.redis_url is not None
    store = FleetStore(settings.redis_url.get_secret_value())
    store.report_agent(host, {"version": __version__, "time": time.time(), "workers": 0, "pid": 1, **data})
    store.close()


def found(settings: Settings, code: str) -> list[Check]:
    return [check for check in run_checks(settings) if check.code == code]


def test_each_hosts_clock_is_compared(settings: Settings) -> None:
    report(settings, "one")
    report(settings, "two", time=time.time() + 7200)
    report(settings, "three", time=time.time() - 30)
    report(settings, "old", time=None)
    here, *others = found(settings, "clock")
    assert (here.where, here.outcome) == ("this machine", "ok")
    reported = {check.where: check for check in others}
    assert reported["host two"].outcome == "failure"
    assert re.search(
        r"two: its clock is 7(200\.\d|199\.9) s ahead of Redis's clock: its commands",
        reported["host two"].found,
    )
    assert reported["host three"].outcome == "warning"
    assert "behind Redis's" in reported["host three"].found
    assert reported["hosts"].outcome == "ok"
    assert reported["hosts"].found.startswith(
        "the clocks of 1 of 4 live hosts differ from Redis's clock by at most "
    )


def test_hosts_with_other_time_zone_rules_are_named(settings: Settings) -> None:
    report(settings, "one", tzdata=tz_database_version())
    (check,) = found(settings, "time_zones")
    assert check.outcome == "ok"
    report(settings, "two", tzdata="2019a")
    (check,) = found(settings, "time_zones")
    assert (check.outcome, check.where) == ("warning", "two")
    assert check.found.startswith(f"two: time zone rules 2019a, elsewhere {tz_database_version()}")


def test_a_host_that_was_suspended_is_named_for_a_day(settings: Settings) -> None:
    change = {"kind": "suspended", "seconds": 312.0, "text": "this machine was suspended for 312 s"}
    report(settings, "one", clock_change={**change, "age_seconds": 600.0})
    report(settings, "two", clock_change={**change, "age_seconds": 90_000.0})
    report(settings, "three", clock_change="nonsense")
    (check,) = found(settings, "clock_change")
    assert check.where == "host one"
    assert check.found == "one: this machine was suspended for 312 s (10 min ago)"


def test_without_a_host_agent_it_reports_that_only_this_shell_was_checked(settings: Settings) -> None:
    Directory(settings.config_dir).write("a", GOOD)
    (check,) = found(settings, "config")
    assert "1 accounts" in check.found
    assert "checked only in this shell (no host agent is live)" in check.found
    assert "a host agent may have other credentials" in check.found
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    (check,) = found(away, "config")
    assert "checked only in this shell (no host agent can be asked without Redis)" in check.found


def test_an_agent_that_does_not_answer_leaves_this_shells_view(settings: Settings) -> None:
    Directory(settings.config_dir).write("a", GOOD)
    report(settings, "silent")
    quick = settings.model_copy(update={"command_timeout_seconds": 1.0})
    (check,) = found(quick, "config")
    assert "checked only in this shell (no host answered)" in check.found


def test_every_finding_has_code_where_what_and_cure(settings: Settings) -> None:
    report(settings, "two", time=time.time() + 7200, version="0.0.1")
    report(settings, "three", trouble="a disk is full")
    (settings.config_dir / "accounts").mkdir(exist_ok=True)
    for check in run_checks(settings):
        assert check.code in CODES
        assert check.where
        assert check.found
        assert check.outcome == "ok" or check.advice, check
    with pytest.raises(ValueError, match="not a code"):
        Check(code="nonsense", outcome="ok", where="here", found="x")
    with pytest.raises(ValueError, match="without advice"):
        Check(code="redis", outcome="failure", where="here", found="x")


def test_text_and_json_use_the_same_codes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.redis_url is not None
    monkeypatch.setenv("MANAGER_REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(settings.config_dir))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(settings.state_dir))
    text = CliRunner().invoke(cli, ["doctor"], standalone_mode=False).output
    data = json.loads(CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False).output)
    in_text = re.findall(r"^(?:ok  |warn|FAIL)  (\w+): ", text, re.MULTILINE)
    assert in_text == [one["code"] for one in data]
    assert {"code", "name", "outcome", "where", "found", "advice"} == set(data[0])


def test_the_docs_list_every_code() -> None:
    listed = dict(
        re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "reference" / "doctor.md").read_text(), re.MULTILINE)
    )
    assert listed == CODES


def test_a_state_directory_that_cannot_be_made_is_a_finding(settings: Settings, short_dir: Path) -> None:
    (short_dir / "file").write_text("")
    wrong = settings.model_copy(update={"state_dir": short_dir / "file" / "s"})
    (check,) = found(wrong, "state")
    assert (check.outcome, check.where) == ("failure", str(short_dir / "file" / "s"))
    assert "set MANAGER_STATE_DIR to one that is" in str(check.advice)
