"""Arguments and variables that look like numbers or booleans are texts, as written in the file."""

from pathlib import Path

import pytest
from support.configs import Directory

from manager.config.as_written import as_written
from manager.config.document import parse_document
from manager.config.models import AccountConfig

PROGRAM = "gateway: command\nready: {line: ready}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_what_the_file_says_is_what_the_program_gets(directory: Directory) -> None:
    directory.write(
        "a",
        PROGRAM
        + "command: [sleep, --port, 8080, 0.50, true, 0x1F, 1e3, +5, -0, no, '007']\n"
        + "environment: {RATE: 0.5, DEBUG: true, PORT: 8080, BIG: 123456789012345678901, 5: x, T: True, "
        "F: .5}\n" + "directory: '.'\nstop: {signal: INT}\n",
    )
    assert directory.check().errors == ()
    config = directory.service.load_account_config("a")
    assert config.command == (
        *("sleep", "--port", "8080", "0.50", "true", "0x1F", "1e3", "+5", "-0", "no", "007"),
    )
    assert config.environment == {
        **{"RATE": "0.5", "DEBUG": "true", "PORT": "8080", "BIG": "123456789012345678901"},
        **{"5": "x", "T": "True", "F": ".5"},
    }


def test_defaults_are_read_in_the_same_way(directory: Directory) -> None:
    directory.defaults(
        "gateway: command\ncommand: [sleep, 1.50]\nready: {line: 100}\nenvironment: {A: 0.10}\n"
    )
    directory.write("a", "login: 1\nserver: S\nenvironment: {B: false}\n")
    assert directory.check().errors == ()
    config = directory.service.load_account_config("a")
    assert config.command == ("sleep", "1.50")
    assert config.environment == {"A": "0.10", "B": "false"}
    assert config.ready is not None
    assert config.ready.line == "100"


def test_a_file_without_such_values_is_left_as_it_is() -> None:
    text = "gateway: paper\nlogin: 5\nlabels: {a: b}\nexecution: {interval_seconds: 0.5}\n"
    document = parse_document(text, text.encode(), "a.yaml")
    assert as_written(document) is document


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("command: python3 bot.py --port 8080", "command: [python3, bot.py, --port, 8080]"),
        ("command: 'bot --name \"a b\" true'", 'command: [bot, --name, "a b", "true"]'),
        ("command: cd /x && ./bot", 'command: [sh, -c, "…"]'),
        ("command: 5", "is not a list; write [program, argument, argument]"),
        ("command: [sleep, null]", 'command[1]: has no value; write "" for an empty text'),
        ("command: [sleep, .nan]", "command[1]: nan: not a finite number; write it in quotes"),
        ("command: [sleep, [1]]", "command[1]: [1] is not a text"),
        ("command: [sleep]\nenvironment: {A: }", 'environment.A: has no value; write "" for an empty text'),
        ('command: [sleep]\nenvironment: {"A=B": x}', "environment.A=B: 'A=B' is not a valid variable name"),
        ('command: [sleep]\nenvironment: {"": x}', "environment.: '' is not a valid variable name"),
        ('command: [sleep]\nenvironment: {A: "a\\0b"}', "environment.A: contains a NUL character"),
        ('command: [sleep]\nenvironment: {"A\\0": x}', "contains a NUL character"),
        ('command: [sleep, "a\\0b"]', "command[1]: contains a NUL character"),
        ('command: [""]', "command[0]: is empty"),
        (
            "command: [sleep]\numask: 027",
            "027 is ambiguous (YAML parsers differ): write the octal digits in quotes",
        ),
        ("command: [sleep]\numask: 27", 'a decimal number; write the octal digits in quotes: umask: "027"'),
        ("command: [sleep]\numask: true", "octal digits in quotes"),
        ("command: [sleep]\numask: '0999'", 'octal digits from "000" to "777"'),
        ("command: [sleep]\numask: '1777'", 'octal digits from "000" to "777"'),
    ],
)
def test_the_message_says_how_to_write_it(directory: Directory, line: str, says: str) -> None:
    (error,) = directory.errors_of(f"{PROGRAM}{line}\n")
    assert says in error


@pytest.mark.parametrize(
    "line", ["bot --token=my-secret-1 --x", "bot --api-key my-secret-1", "bot KEY=my-secret-1"]
)
def test_the_list_that_is_shown_holds_no_secret(directory: Directory, line: str) -> None:
    (error,) = directory.errors_of(f"{PROGRAM}command: {line}\n")
    assert "command: [bot, " in error
    assert "my-secret-1" not in error


@pytest.mark.parametrize(
    ("written", "means"),
    [('"027"', 0o027), ('"22"', 0o22), ("0o77", 0o77), ("0", 0), ('"0o007"', 7), ("7", 7)],
)
def test_a_umask_is_octal(directory: Directory, written: str, means: int) -> None:
    directory.write("a", f"{PROGRAM}command: [sleep]\numask: {written}\n")
    assert directory.check().errors == ()
    umask = directory.service.load_account_config("a").umask
    assert umask is not None
    assert int(umask.removeprefix("0o"), 8) == means


def test_a_configuration_that_a_program_makes_takes_numbers_too() -> None:
    data = {
        "account_id": "a",
        "gateway": "command",
        "default_risk": {"risk_percent": 1, "max_positions": 1},
        "command": ["sleep", 5, 0.5],
    }
    assert AccountConfig.model_validate(data).command == ("sleep", "5", "0.5")
    with pytest.raises(ValueError, match="true or false is not a text; write it in quotes"):
        AccountConfig.model_validate({**data, "environment": {"A": True}})
