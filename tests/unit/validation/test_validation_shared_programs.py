"""Warnings about accounts that share a port or a whole program: one bot, configured twice."""

from pathlib import Path

import pytest
from support.configs import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def bot(n: int, ready: str, more: str = "") -> str:
    return f"gateway: command\ncommand: [sleep, '{n}']\nready: {ready}\n{more}"


def warnings(directory: Directory, account_id: str = "a") -> str:
    by_all = directory.validator.validate_all()[account_id]
    assert not by_all.has_errors, by_all
    # A host checks one account at a time.
    assert directory.check(account_id).warnings == by_all.warnings
    return "\n".join(by_all.warnings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{tcp: 8080}", "{tcp: 8080}"),
        ("{tcp: 8080}", "{http: 'http://localhost:8080/ping'}"),
        ("{http: 'http://127.0.0.1:8080/a'}", "{http: 'http://LOCALHOST:8080/b'}"),
        ("{http: 'http://10.1.1.1/a'}", "{http: 'http://10.1.1.1:80/b'}"),
    ],
)
def test_a_port_of_two_accounts_is_warned_of_in_both(directory: Directory, one: str, other: str) -> None:
    directory.write("a", bot(1, one))
    directory.write("b", bot(2, other))
    assert "accounts/a.yaml:3:" in warnings(directory)
    assert "also shows whether accounts/b.yaml is ready or well" in warnings(directory)
    assert "also shows whether accounts/a.yaml is ready or well" in warnings(directory, "b")


def test_a_health_probe_counts_as_well(directory: Directory) -> None:
    directory.write("a", bot(1, "{after_seconds: 0}", "health: {probe: {tcp: 8080}}\n"))
    directory.write("b", bot(2, "{http: 'http://127.0.0.1:8080/'}"))
    assert "health.probe.tcp: 127.0.0.1:8080 also shows" in warnings(directory)


@pytest.mark.parametrize(
    ("host_a", "host_b", "warned"),
    [
        ("", "", True),
        ("host: h1\n", "", True),
        ("host: h1\n", "host: h1\n", True),
        ("host: h1\n", "host: h2\n", False),
    ],
)
def test_a_port_is_one_hosts(directory: Directory, host_a: str, host_b: str, warned: bool) -> None:
    directory.write("a", bot(1, "{tcp: 8080}", host_a))
    directory.write("b", bot(2, "{tcp: 8080}", host_b))
    assert ("also shows" in warnings(directory)) == warned


def test_an_account_that_is_switched_off_or_has_another_port_is_not_warned_of(directory: Directory) -> None:
    directory.write("a", bot(1, "{tcp: 8080}", "health: {probe: {tcp: 8080}}\n"))
    directory.write("b", bot(2, "{tcp: 8080}", "enabled: false\n"))
    directory.write("c", bot(3, "{tcp: 8081}"))
    assert warnings(directory) == warnings(directory, "b") == warnings(directory, "c") == ""


def test_the_same_program_twice_is_warned_of(directory: Directory) -> None:
    same = bot(1, "{after_seconds: 0}", "environment: {MODE: live}\n")
    directory.write("a", same)
    directory.write("b", same + "directory: ./.\n")
    assert "accounts/b.yaml runs the same program" in warnings(directory)
    for account_id, other in (
        ("b", bot(2, "{after_seconds: 0}", "environment: {MODE: live}\n")),
        ("b", bot(1, "{after_seconds: 0}", "environment: {MODE: dry}\n")),
        ("b", same + f"directory: {directory.root / 'accounts'}\n"),
        ("b", same + "login: 5001\nserver: S\n"),
        ("b", same.replace("'1'", "'1', '{account_id}'")),
    ):
        directory.write(account_id, other)
        assert "same program" not in warnings(directory), other


def test_a_warning_goes_when_the_other_account_does(directory: Directory) -> None:
    """A cached result of unchanged files depends on the other accounts too."""
    directory.write("a", bot(1, "{tcp: 8080}"))
    directory.write("b", bot(2, "{tcp: 8080}")).unlink()
    assert warnings(directory) == ""
    directory.write("b", bot(2, "{tcp: 8080}"))
    assert "also shows" in "\n".join(directory.validator.validate_all()["a"].warnings)
    directory.write("b", bot(2, "{tcp: 8081}"))
    assert directory.validator.validate_all()["a"].warnings == ()
