"""Gateway options, groups and labels of an account file reach its worker."""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host

from manager.gateways import GatewayOptions, registry
from manager.host.workers.records import WorkerRecord
from manager.local.offline import local_workers
from manager.models import WorkerInfo
from manager.placement.labels import Selection

#: A plug-in gateway that writes its options to a file.
RECORDER = """
import json
from dataclasses import fields
from pathlib import Path
from pydantic import BaseModel, SecretStr
from manager.gateways.fake import FakeGateway

def plain(value):
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value) if isinstance(value, Path) else value

class Recorder(FakeGateway):
    def __init__(self, options):
        super().__init__(login=options.login, server=options.server)
        got = {one.name: plain(getattr(options, one.name)) for one in fields(options)}
        Path(options.options["record_to"]).write_text(json.dumps(got))
"""


def forget_plugged() -> None:
    registry._plugged.cache_clear()
    registry._loaded.cache_clear()


@pytest.fixture
def host(tmp_path: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    site = tmp_path / "site"
    (site / "recorder-1.0.dist-info").mkdir(parents=True)
    (site / "recorder-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: recorder\nVersion: 1.0\n"
    )
    (site / "recorder-1.0.dist-info" / "entry_points.txt").write_text(
        "[manager.gateways]\nrecorder = recorder_gateway:Recorder\n"
    )
    (site / "recorder_gateway.py").write_text(RECORDER)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("THE_PASSWORD", "hunter2-hunter2")
        patch.setenv("THE_KEY", "key-of-the-exchange")
        forget_plugged()
        made = Host(short_dir)
        yield made
        made.close()
    forget_plugged()


def test_a_plugged_in_gateway_gets_every_key_and_readers_get_groups_and_labels(
    host: Host, tmp_path: Path
) -> None:
    record = tmp_path / "got.json"
    host.account(
        "a",
        5001,
        gateway="recorder",
        password="env:THE_PASSWORD",
        path=r"C:\Terminals\one\terminal64.exe",
        portable=True,
        timeout=7_000,
        venue="tcp:127.0.0.1:7",
        options={"record_to": str(record), "key": "env:THE_KEY"},
        environment={"LOG_LEVEL": "info", "KEY": "env:THE_KEY"},
        command=["bot", "--fast"],
        directory="~/bots",
        ready={"after_seconds": 1},
        stop={"signal": "INT", "deadline_seconds": 3},
        health={"hang_after_seconds": 9},
        groups=["desk", "fx"],
        labels={"book": "7"},
    )
    assert host.service.validate_config("a").warnings == ()

    info = host.start()

    assert (info.groups, info.labels) == (("desk", "fx"), {"book": "7"})
    got: dict[str, Any] = json.loads(record.read_text())
    expected = {
        "account_id": "a",
        "worker_id": info.worker_id,
        "login": 5001,
        "server": "Paper-1",
        "password": "hunter2-hunter2",
        "path": r"C:\Terminals\one\terminal64.exe",
        "portable": True,
        "timeout": 7_000,
        "venue_address": "tcp:127.0.0.1:7",
        "symbols": ["EURUSD"],
        "options": {"record_to": str(record), "key": "key-of-the-exchange"},
        "environment": {"LOG_LEVEL": "info", "KEY": "key-of-the-exchange"},
        "command": ["bot", "--fast"],
        "directory": str(Path("~/bots").expanduser()),
    }
    assert {name: got[name] for name in expected} == expected
    assert (got["ready"]["after_seconds"], got["stop"]["signal"], got["health"]["hang_after_seconds"]) == (
        1,
        "INT",
        9,
    )
    assert set(got) == {one.name for one in fields(GatewayOptions)}

    # A new agent knows them, and so does an offline listing of this machine.
    host.pool.close()
    host.new_pool()
    (adopted,) = host.pool.adopt()
    (local,) = local_workers(host.settings)
    for found in (adopted, local):
        assert (found.worker_id, found.groups, found.labels) == (info.worker_id, info.groups, info.labels)

    # Without its file, the groups and labels of its start select it.
    (host.config_service.accounts_dir / "a.yaml").unlink()
    assert [one.account_id for one in host.service.list_workers(Selection(("desk",)))] == ["a"]
    assert [one.account_id for one in host.service.list_workers(Selection((), ("book=7",)))] == ["a"]
    assert host.service.list_workers(Selection(("other",))) == []
    host.service.stop_worker("a")
    ended = host.service.get_worker_info("a")
    assert ended is not None
    assert WorkerInfo.from_dict(json.loads(json.dumps(ended.to_wire()))).groups == ("desk", "fx")


def test_a_readable_file_takes_precedence(host: Host) -> None:
    host.account("a", 5001, groups=["old"])
    host.start()
    host.account("a", 5001, groups=["new"])
    names = {
        group: [info.account_id for info in host.service.list_workers(Selection((group,)))]
        for group in ("old", "new")
    }
    assert names == {"old": [], "new": ["a"]}
    (host.config_service.accounts_dir / "a.yaml").write_text("gateway: [")
    names = {
        group: [info.account_id for info in host.service.list_workers(Selection((group,)))]
        for group in ("old", "new")
    }
    assert names == {"old": ["a"], "new": []}
    host.service.stop_worker("a")


def test_records_are_compatible_with_older_and_newer_versions(host: Host) -> None:
    host.account("a", 5001)
    host.account("b", 5002, groups=["desk"], labels={"book": "7"})
    for account_id in ("a", "b"):
        host.start(account_id)
    texts = {path.stem: path.read_text() for path in host.paths.workers_dir.glob("*.json")}
    # Version 0.2 rejects unknown keys.
    assert not {"groups", "labels"} & set(json.loads(texts["a"]))
    record = WorkerRecord.from_json(texts["b"])
    assert (record.groups, record.labels) == (("desk",), {"book": "7"})
    newer = json.dumps({**json.loads(texts["b"]), "colour": "red"})
    assert WorkerRecord.from_json(newer) == record
    for wrong in ('{"groups": 7}', '{"labels": "x"}'):
        with pytest.raises((ValueError, TypeError)):
            WorkerRecord.from_json(json.dumps({**json.loads(texts["b"]), **json.loads(wrong)}))
    for account_id in ("a", "b"):
        host.service.stop_worker(account_id)
