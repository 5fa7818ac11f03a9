"""The registry of gateways: one folder or entry point adds a gateway, and no other code compares names."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.configs import GOOD, Directory

import manager.gateways
from manager.config.starting_files import write_starting_files
from manager.gateways import (
    GatewayOptions,
    GatewayType,
    example_files,
    gateway_type,
    known_gateways,
    make_gateway,
    may_leave_programs,
    preloaded_modules,
    reach_problem,
    registry,
    runs_programs,
    summaries,
    uses_local_venue,
)
from manager.gateways.base import InvalidRequest
from manager.gateways.fake import FakeGateway
from manager.settings import Settings

ROOT = Path(__file__).resolve().parents[3]

#: The whole content of a folder that adds a gateway.
FOLDER = """
from pydantic import BaseModel, ConfigDict
from manager.config.findings import Finding
from manager.gateways import GatewayType
from manager.gateways.fake import FakeGateway

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = 1

def rules(config, config_dir):
    if config.login == 13:
        yield Finding(("login",), f"{config.login} is not a login of this gateway")

GATEWAY_TYPE = GatewayType(
    name="sample",
    create=lambda options: FakeGateway(login=options.login, server=options.server),
    summary="a venue of this test",
    rules=rules,
    options=Options,
    reachability=lambda config, settings: f"no route from {settings.host} to {config.server}",
    preload=("json.tool",),
    ignored_keys=(("portable",), ("currencies",)),
    rejected_keys=("path",),
    runs_programs=True,
    uses_local_venue=lambda config: config.server == "Local-1",
    example_files={
        "accounts/example-sample.yaml": "enabled: false\\ngateway: sample\\nlogin: 1\\nserver: S-1\\n"
    },
)
"""

ACCOUNT = "gateway: sample\nlogin: 1\nserver: S-1\n"


def forget() -> None:
    for cached in (registry._built_in, registry._plugged, registry._loaded):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add the folder `sample` to the package of gateways."""
    (tmp_path / "more" / "sample").mkdir(parents=True)
    (tmp_path / "more" / "sample" / "__init__.py").write_text("")
    (tmp_path / "more" / "sample" / "gateway_type.py").write_text(FOLDER)
    path = [*manager.gateways.__path__, str(tmp_path / "more")]
    with monkeypatch.context() as patch:
        patch.setattr(manager.gateways, "__path__", path)
        forget()
        yield
    for module in [name for name in sys.modules if name.startswith("manager.gateways.sample")]:
        del sys.modules[module]
    forget()


@pytest.mark.usefixtures("folder")
def test_a_folder_is_all_that_a_gateway_needs(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "fleet")
    assert known_gateways() == ("command", "paper", "sample")

    # Validation: its keys, its options and its own rules.
    directory.write("a", ACCOUNT)
    assert (directory.check().errors, directory.check().warnings) == ((), ())
    directory.write(
        "a", ACCOUNT.replace("login: 1", "login: 13") + "path: C:/x\noptions: {depth: x, width: 2}\n"
    )
    errors = "\n".join(directory.check().errors)
    assert "path: is not a field of gateway sample: remove it" in errors
    assert "login: 13 is not a login of this gateway" in errors
    assert "options.depth: input should be a valid integer" in errors
    assert "options.width: extra inputs are not permitted" in errors
    directory.write("a", ACCOUNT + "portable: true\n")
    (warning,) = directory.check().warnings
    assert "portable: has no effect with gateway sample" in warning

    # Its accounts get the keys of programs from defaults.yaml; accounts of the paper gateway do not.
    directory.defaults("command: [bot]\n")
    directory.write("a", ACCOUNT)
    directory.write("b", GOOD)
    config = directory.service.load_account_config("a")
    assert config.command == ("bot",)
    assert directory.service.load_account_config("b").command is None

    # Orphans, fork server, reachability, `manager up`, and the worker.
    assert runs_programs("sample")
    assert "json.tool" in preloaded_modules()
    assert reach_problem(config, Settings(host="host-1")) == "no route from host-1 to S-1"
    assert not uses_local_venue(config)
    assert uses_local_venue(config.model_copy(update={"server": "Local-1"}))
    options = GatewayOptions(account_id="a", worker_id="w", login=1, server="S-1", private_dir=tmp_path)
    assert make_gateway("sample", options).connect(0.0).server == "S-1"


@pytest.mark.usefixtures("folder")
def test_init_writes_the_examples_of_every_gateway(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "fleet")
    root = directory.service.config_dir
    written = write_starting_files(root, summaries(), example_files(), beside=True)
    assert root / "accounts" / "example-sample.yaml" in written
    text = (root / "defaults.yaml").read_text()
    for name in known_gateways():
        assert f"#   {name}" in text
    assert {name: result.errors for name, result in directory.validator.validate_all().items()} == {
        f"example-{name}": () for name in known_gateways()
    }


def gateway_comparisons(tree: ast.AST, names: frozenset[str]) -> Iterator[ast.expr]:
    """Yield expressions that decide by a gateway's name: comparisons, `match` cases, tables by name."""
    asserted = {id(inner) for one in ast.walk(tree) if isinstance(one, ast.Assert) for inner in ast.walk(one)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and id(node) not in asserted:
            used = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
            # "command" is also a key of account files.
            if "paper" in used or (used & names and "gateway" in ast.unparse(node).lower()):
                yield node
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            if node.value.value in names:
                yield node.value
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            if len(keys & names) > 1:
                yield node


@pytest.mark.parametrize(
    "text",
    [
        'config.gateway == "command"',
        '"paper" != kind',
        'config.gateway in ("command", "x")',
        'match name:\n    case "paper": pass',
        'TABLE = {"paper": 1, "command": 2}',
    ],
)
def test_a_decision_by_name_is_found(text: str) -> None:
    assert list(gateway_comparisons(ast.parse(text), frozenset(known_gateways())))


def test_no_code_outside_its_folder_compares_a_gateways_name() -> None:
    names = frozenset(known_gateways())
    assert names >= {"paper", "command"}
    found: list[str] = []
    for path in [*(ROOT / "manager").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        own = path.relative_to(ROOT).as_posix().split("/")
        if own[:2] == ["manager", "gateways"] and own[2] in names:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path}:{one.lineno}: {ast.unparse(one)}" for one in gateway_comparisons(tree, names)]
    assert found == []


#: Modules of another package, by what their entry point names.
PLUGGED = """
from manager.gateways import GatewayType
from manager.gateways.fake import FakeGateway

class Bare(FakeGateway):
    def __init__(self, options):
        super().__init__(login=options.login, server="Bare-1")

TYPED = GatewayType(name="other", create=Bare, ignored_keys=(("portable",),), preload=("no.such.module",))
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path / "site"
    info = site / "plugged-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[manager.gateways]\nbare = plugged_here:Bare\ntyped = plugged_here:TYPED\n"
        "broken = plugged_here_not:X\npaper = plugged_here:Bare\n"
    )
    (site / "plugged_here.py").write_text(PLUGGED)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(site), os.environ.get("PYTHONPATH", ""))))
        forget()
        yield
    sys.modules.pop("plugged_here", None)
    forget()


def registered(name: str) -> GatewayType:
    found = gateway_type(name)
    assert found is not None
    return found


@pytest.mark.usefixtures("plugged")
def test_another_package_registers_a_factory_or_a_type(tmp_path: Path) -> None:
    assert known_gateways() == ("bare", "broken", "command", "paper", "typed")
    options = GatewayOptions(account_id="a", worker_id="w", login=1, private_dir=tmp_path)
    for name in ("bare", "typed"):
        gateway = make_gateway(name, options)
        assert isinstance(gateway, FakeGateway)
        assert gateway.connect(0.0).server == "Bare-1"
        assert registered(name).name == name
        assert not runs_programs(name)
    assert registered("typed").ignored_keys == (("portable",),)
    # Only this package's gateways are preloaded, and no package replaces one of them.
    assert "no.such.module" not in preloaded_modules()
    assert registered("paper").uses_local_venue is not registered("bare").uses_local_venue


@pytest.mark.usefixtures("plugged")
def test_a_gateway_that_cannot_be_loaded_is_reported_and_nothing_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path / "fleet")
    directory.write("a", GOOD.replace("gateway: paper", "gateway: broken"))
    monkeypatch.setenv("SOME_PASSWORD", "x")
    result = directory.check()
    assert result.errors == ()
    (warning,) = [one for one in result.warnings if "gateway:" in one]
    assert (
        "gateway broken cannot be loaded here (ModuleNotFoundError: No module named 'plugged_here_not')"
        in warning
    )
    # Its workers may have run programs: their orphans are looked for.
    assert [may_leave_programs(name) for name in ("broken", "removed", "bare")] == [True, True, False]
    with pytest.raises(InvalidRequest, match="gateway broken cannot be loaded here"):
        make_gateway("broken", GatewayOptions(account_id="a", worker_id="w", private_dir=tmp_path))


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    options = GatewayOptions(account_id="a", worker_id="w", private_dir=tmp_path)
    with pytest.raises(
        InvalidRequest, match="'papr' is not a gateway on this host; available are command, paper"
    ):
        make_gateway("papr", options)
    assert not runs_programs("papr")
    assert not runs_programs(["paper"])
