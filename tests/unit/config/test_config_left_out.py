"""Files that seem meant to be read but are not: reported everywhere, never a success."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.configs import GOOD, Directory

from manager import WorkerManagerService
from manager.change.config_push import collect
from manager.config.left_out import left_out
from manager.doctor import run_checks
from manager.errors import InvalidConfigError
from manager.models import BatchResult, WorkerInfo
from manager.placement.labels import Selection
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def reasons(directory: Directory) -> dict[str, str]:
    return {one.name: one.reason for one in left_out(directory.root)}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gold.yml", "rename it to end in .yaml (gold.yaml)"),
        ("silver.YAML", "rename it to end in .yaml (silver.yaml)"),
        ("zinc.yaml.txt", "rename it to end in .yaml (zinc.yaml)"),
        ("tin.json", "rename it to end in .yaml (tin.yaml)"),
        ("lead.yaml.bak", "rename it to end in .yaml (lead.yaml)"),
        ("iron.yaml ", "rename it to end in .yaml (iron.yaml)"),
        ("tin desk.yaml", "an account id is"),
        ("tin desk.yml", "an account id is"),
        ("con.yaml", "Windows reserves"),
        ("zinc.yaml.disabled", "write `enabled: false`"),
        ("copper", "if it is an account (copper.yaml)"),
        ("desk.toml", "if it is an account"),
        ("good.yml", "and accounts/good.yaml is: merge them"),
    ],
)
def test_a_name_in_accounts_that_is_not_read_is_named_with_what_to_do(
    directory: Directory, name: str, said: str
) -> None:
    directory.write("good", GOOD)
    (directory.root / "accounts" / name).write_text(GOOD)
    found = reasons(directory)
    assert set(found) == {f"accounts/{name}"}
    assert said in found[f"accounts/{name}"]


def test_directories_dangling_links_and_other_places_are_named(directory: Directory) -> None:
    directory.write("good", GOOD)
    accounts = directory.root / "accounts"
    (accounts / "desk-a" / "sub").mkdir(parents=True)
    (accounts / "desk-a" / "sub" / "gold.yaml").write_text(GOOD)
    (accounts / "silver.yml").symlink_to("nowhere")
    for name in ("default.yml", "Defaults.yaml", "defaults.yaml.txt", "default.yaml", "defaults.json"):
        (directory.root / name).write_text("server: Paper-1\n")
    (directory.root / "gold.yaml").write_text(GOOD)
    (directory.root / "Accounts").mkdir()
    (directory.root / "desk-b").mkdir()
    (directory.root / "desk-b" / "zinc.yaml").write_text(GOOD)
    found = reasons(directory)
    assert set(found) == {
        *("accounts/desk-a", "accounts/silver.yml", "default.yml", "Defaults.yaml", "defaults.yaml.txt"),
        *("default.yaml", "defaults.json", "gold.yaml", "Accounts", "desk-b"),
    }
    assert "sub/gold.yaml" in found["accounts/desk-a"]
    assert found["default.yml"] == "is not read: rename it to defaults.yaml"
    assert "move it to accounts/gold.yaml" in found["gold.yaml"]


def test_defaults_among_the_accounts_are_to_be_moved_and_not_to_become_an_account(
    directory: Directory,
) -> None:
    directory.write("good", GOOD)
    (directory.root / "accounts" / "default.yml").write_text("server: Paper-1\n")
    why = reasons(directory)["accounts/default.yml"]
    assert f"belong in {directory.root / 'defaults.yaml'}: move it there" in why
    directory.defaults("server: Paper-1\n")
    assert "merge it into that file" in reasons(directory)["accounts/default.yml"]


def test_what_was_never_meant_to_be_read_is_left_alone(directory: Directory) -> None:
    directory.write("good", GOOD)
    directory.defaults("server: Paper-1\n")
    accounts = directory.root / "accounts"
    for name in (
        *(".good.yaml.swp", "good.yaml~", "#good.yaml#", ".#good.yaml", "good.yaml.swp", ".gitkeep"),
        *("README.md", "good.yaml.bak", "good.yaml.orig", "good.bak", "Thumbs.db", "good.password"),
    ):
        (accounts / name).write_text("junk: [")
    (accounts / "secrets").mkdir()
    (accounts / "secrets" / "good.password").write_text("x")
    (directory.root / "docker-compose.yml").write_text("services: {}\n")
    (directory.root / "config.json").write_text('{"exchange": {}, "strategy": "Mine"}')
    (directory.root / "defaults.yaml.bak").write_text("server: Old\n")
    (directory.root / "bots").mkdir()
    (directory.root / "bots" / "settings.yaml").write_text("pairs: [EUR]\n")
    assert reasons(directory) == {}


def test_missing_and_empty_accounts_are_named_by_their_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").mkdir()
    [missing] = left_out(Path("c"))
    assert f"{tmp_path}/c/accounts does not exist" in missing.reason
    Path("c/accounts").symlink_to("share")
    [dangling] = left_out(Path("c"))
    assert f"{tmp_path}/c/accounts is a link to a missing directory" in dangling.reason
    Path("c/share").mkdir()
    [empty] = left_out(Path("c"))
    assert f"{tmp_path}/c/accounts holds no account files" in empty.reason


def test_a_default_file_that_is_read_as_an_account_is_warned_of(directory: Directory) -> None:
    directory.write("defaults", GOOD)
    [warning] = directory.validator.validate_account("defaults").warnings
    assert "an account called defaults" in warning
    assert "defaults.yaml beside accounts/" in warning


def test_names_that_differ_in_case_are_judged_alike_by_validation_and_start(directory: Directory) -> None:
    directory.write("A1", GOOD)
    directory.write("a1", GOOD.replace("5001", "5002"))
    for result in (
        directory.validator.validate_all()["a1"],
        directory.validator.validate_account("a1"),
        directory.validator.validate_for_any_host()["a1"],
    ):
        assert "only in case" in result.errors[0]
    assert not directory.validator.validate_account("A1").has_errors or "case" not in str(
        directory.validator.validate_account("A1").errors
    )
    batch = service(directory).start_all()
    assert "only in case" in batch.failed["a1"]


class _Pool:
    """Prepares starts in memory, as a host does, with a check of each account's file."""

    def start_many(
        self, requests: list[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        del progress, batch
        done: dict[str, WorkerInfo] = {}
        failed: dict[str, str] = {}
        for request in requests:
            try:
                request.prepare()
            except ValueError as error:
                failed[request.account_id] = str(error)
            else:
                done[request.account_id] = WorkerInfo(
                    worker_id="w", account_id=request.account_id, status=WorkerLifecycleStatus.RUNNING
                )
        return BatchResult(batch_id="b", done=done, failed=failed)


def service(directory: Directory) -> WorkerManagerService:
    return WorkerManagerService(directory.service, _Pool())  # type: ignore[arg-type]


def test_starting_all_starts_the_valid_ones_and_reports_a_failure(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "x")
    directory.write("good", GOOD)
    (directory.root / "accounts" / "gold.yml").write_text(GOOD)
    (directory.root / "defaults.yml").write_text("server: Paper-1\n")
    batch = service(directory).start_all()
    assert set(batch.done) == {"good"}
    assert set(batch.failed) == {"gold.yml", "defaults.yml"}
    assert not batch.ok
    # The group may also contain the unread files: that is unknown.
    assert set(service(directory).start_all(selection=Selection(("fx",), ())).failed) == {
        "gold.yml",
        "defaults.yml",
    }


def test_starting_all_of_a_directory_that_is_not_mounted_fails(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    (tmp_path / "accounts").rmdir()
    batch = service(directory).start_all()
    assert not batch.ok
    assert f"{tmp_path / 'accounts'} does not exist" in batch.failed["accounts"]


def test_a_push_names_what_it_would_leave_out(directory: Directory) -> None:
    directory.write("good", GOOD)
    (directory.root / "accounts" / "tin desk.yaml").write_text(GOOD)
    (directory.root / "defaults.yml").write_text("server: Paper-1\n")
    with pytest.raises(InvalidConfigError) as caught:
        collect(directory.service)
    assert "accounts/tin desk.yaml: is not read" in str(caught.value)
    assert "defaults.yml: is not read" in str(caught.value)
    assert set(collect(directory.service, allow_invalid=True)) == {"accounts/good.yaml"}


def test_a_push_does_not_take_defaults_that_cannot_be_read_for_none(directory: Directory) -> None:
    directory.write("good", GOOD)
    (directory.root / "defaults.yaml").symlink_to("nowhere")
    with pytest.raises(InvalidConfigError, match=r"defaults\.yaml cannot be read"):
        collect(directory.service, allow_invalid=True)


def test_doctor_fails_over_files_that_are_not_read(directory: Directory) -> None:
    settings = Settings(
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        config_dir=directory.root,
        state_dir=directory.root / "state",
        host="h",
    )
    directory.write("good", GOOD)
    (directory.root / "accounts" / "gold.yml").write_text(GOOD)
    failures = [
        check for check in run_checks(settings) if check.code == "config" and check.outcome == "failure"
    ]
    assert ["accounts/gold.yml" in check.found for check in failures] == [True]
    for path in (directory.root / "accounts").iterdir():
        path.unlink()
    failures = [check for check in run_checks(settings) if check.code == "config"]
    assert [check.outcome for check in failures] == ["failure"]
    assert str(directory.root / "accounts") in failures[0].found


@pytest.mark.long
def test_validate_names_them_and_exits_1(directory: Directory) -> None:
    directory.write("good", GOOD)
    (directory.root / "accounts" / "gold.yml").write_text(GOOD)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MANAGER_")},
        "MANAGER_CONFIG_DIR": str(directory.root),
        "MANAGER_STATE_DIR": str(directory.root / "state"),
        "SOME_PASSWORD": "x",
    }

    def manager(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "manager.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def validate(*options: str) -> "subprocess.CompletedProcess[str]":
        return manager("validate", "--here", *options)

    answer = validate()
    assert answer.returncode == 1
    assert "gold.yml: not read\n" in answer.stdout
    assert "1 valid, 0 invalid, 1 not read" in answer.stdout
    assert {one["account_id"] for one in json.loads(validate("--json").stdout)} == {"good", "gold.yml"}
    assert validate("--group", "fx").returncode == 1
    (directory.root / "accounts" / "gold.yml").unlink()
    assert validate().returncode == 0
    (directory.root / "defaults.yml").write_text("default_risk: {risk_percent: 0.1}\n")
    shown = manager("config", "show", "good", "--json")
    assert json.loads(shown.stdout)["default_risk"]["risk_percent"] == 1.0
    assert "warning: defaults.yml: is not read: rename it to defaults.yaml" in shown.stderr
    (directory.root / "defaults.yml").unlink()
    (directory.root / "accounts" / "good.yaml").unlink()
    (directory.root / "accounts").rmdir()
    answer = validate()
    assert answer.returncode == 1
    assert f"{directory.root / 'accounts'} does not exist" in answer.stdout
