"""Environment files: the meaning of lines, errors with line numbers, and secrecy of values."""

import json
import sys
from pathlib import Path

import pytest
from support.configs import Directory

from manager.change.config_push import collect
from manager.config.environment_files import parse_variables
from manager.errors import CredentialError
from manager.system.masking import Masker

PROGRAM = "gateway: command\ncommand: [sleep, 60]\nready: {line: ready}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def write(directory: Directory, content: str | bytes, name: str = "bot.env", mode: int = 0o600) -> None:
    path = directory.root / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\nB = two words \n", {"A": "1", "B": "two words"}),
        ("\n# a comment\n  # another\nA=1 # not this\nB=a#b\n", {"A": "1", "B": "a#b"}),
        ("export A=1\n\texport  B='x'\nexport_C=2", {"A": "1", "B": "x", "export_C": "2"}),
        ("A='it is # all \"one\" \\n'\n", {"A": 'it is # all "one" \\n'}),
        ('A="a \\"b\\" \\\\ \\n $ # c" # d\n', {"A": 'a "b" \\ \n $ # c'}),
        ("A='-----BEGIN\nabc\n-----END'\nB=1\n", {"A": "-----BEGIN\nabc\n-----END", "B": "1"}),
        ("A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        ("A=x=y&z;|\nB=it's\n", {"A": "x=y&z;|", "B": "it's"}),
        ("A=1\r\nB='2'\r\nC=3", {"A": "1", "B": "2", "C": "3"}),
        ("A.b-c=1\n_X__Y=2\n", {"A.b-c": "1", "_X__Y": "2"}),
        ("", {}),
    ],
)
def test_what_lines_mean(text: str, values: dict[str, str]) -> None:
    found = parse_variables(text)
    assert found.values == values
    assert found.problems == []
    assert "two words" not in repr(found)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("A=1\nhello\n", 2, "is not NAME=value"),
        ("A=1\n\n1A=2\n", 3, "is not NAME=value"),
        ("=x\n", 1, "is not NAME=value"),
        ("A B=x\n", 1, "is not NAME=value"),
        ("A='x\nB=1\n", 1, "A: the quote ' is not closed"),
        ('A="x\\"\n', 1, 'A: the quote " is not closed'),
        ("A='x'y\nB=1\n", 1, "A: something follows the closing quote"),
        ("A='x'#y\n", 1, "A: something follows the closing quote"),
        ("A=#secret\n", 1, "A: # may begin a value or a comment: write the value in quotes"),
        ("X=1\nMANAGER_HOST=x\n", 2, "MANAGER_HOST: names beginning with MANAGER_"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    (problem,) = parse_variables(text).problems
    assert (problem.line, problem.warning) == (line, False)
    assert says in problem.text
    assert "secret" not in problem.text


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [("A=1\nA=2\n", 2, "A appears for the second time"), ("A=$HOME/x\n", 1, "A: $NAME is not expanded")],
)
def test_what_others_read_in_another_way_is_a_warning(text: str, line: int, says: str) -> None:
    (problem,) = parse_variables(text).problems
    assert (problem.line, problem.warning) == (line, True)
    assert says in problem.text


def test_the_environment_wins_and_a_later_file_wins(directory: Directory) -> None:
    write(directory, b"\xef\xbb\xbfA=file-1\r\nB=file-1\r\nC=file-1\r\n")
    write(directory, "B=file-2\nC=file-2\nREF=file:bot.env\n", "second.env")
    directory.write(
        "a", PROGRAM + "environment_file: [bot.env, second.env]\nenvironment: {C: own, D: 'literal:x'}\n"
    )
    assert directory.check().errors == ()
    config = directory.service.load_account_config("a")
    values = directory.service.resolve_values(config)
    # Values of files are text: only `environment` has references.
    assert values.environment == {
        **{"A": "file-1", "B": "file-2", "C": "own", "REF": "file:bot.env", "D": "x"},
    }
    assert {"file-1", "file-2", "file:bot.env"} <= set(values.secrets)
    assert "file-2" not in repr(values)


def test_values_are_hidden_wherever_the_account_is_shown_and_pushed(directory: Directory) -> None:
    write(directory, "API_KEY=the-very-key\nNAME=desk-seven\nDEBUG=true\n")
    path = directory.write("a", PROGRAM + "environment_file: bot.env\n")
    loaded = directory.service.read_account("a")
    shown = json.dumps(loaded.shown()) + str(loaded.origins()) + str(directory.check())
    files = collect(directory.service)
    assert files == {"accounts/a.yaml": path.read_text()}
    for secret in ("the-very-key", "desk-seven"):
        assert secret not in shown + str(files)
    config = directory.service.load_account_config("a")
    mask = Masker(directory.service.resolve_values(config).secrets)
    assert mask("key the-very-key of desk-seven is true") == "key *** of *** is true"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "bot.env: is missing on this host"),
        ("A=1\nbad line\n", "bot.env:2: is not NAME=value"),
        ("A=1\0\n", "holds a NUL byte"),
        (b"\xff\xfeA\0=\0", "is UTF-16 text"),
        (b"A=\xff\n", "is not UTF-8 text"),
        ("A=1\n" * 100_000, "is longer than"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_of_the_account(
    directory: Directory, content: str | bytes | None, says: str
) -> None:
    if content is not None:
        write(directory, content)
    directory.write("a", PROGRAM + "environment_file: bot.env\n")
    (error,) = directory.check().errors
    assert error.startswith("accounts/a.yaml:4:19: environment_file: ")
    assert says in error
    with pytest.raises(CredentialError, match=r"^environment_file: .*bot\.env"):
        directory.service.resolve_values(directory.service.load_account_config("a"))
    # A change of the file is detected.
    write(directory, "A=1\n")
    assert directory.check().valid
    write(directory, "worse\n")
    assert not directory.check().valid


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_file_that_others_may_read_is_a_warning(directory: Directory) -> None:
    write(directory, "A=1\n", mode=0o644)
    directory.write("a", PROGRAM + "environment_file: bot.env\n")
    (warning,) = directory.check().warnings
    assert "environment_file: " in warning
    assert "bot.env may be read by others (mode 0644): chmod 600 it" in warning


@pytest.mark.parametrize("line", ["environment_file: ''", "environment_file: ['']"])
def test_an_empty_name_is_refused(directory: Directory, line: str) -> None:
    errors = directory.errors_of(PROGRAM + line + "\n")
    assert any("is not a file name" in error for error in errors)


def test_a_paper_account_has_none(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "x")
    from support.configs import GOOD

    write(directory, "A=1\n")
    (error,) = directory.errors_of(GOOD + "environment_file: bot.env\n")
    assert "environment_file: is not a field of gateway paper" in error
