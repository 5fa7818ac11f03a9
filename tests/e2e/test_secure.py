"""A fleet on a real Redis with the TLS and users of `manager secure init`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from support.fleet import Fleet
from support.flower import Flower
from support.ports import free_port
from support.servers import RedisServer, secure_redis_binary
from support.waiting import eventually

from manager.client.celery_app import sender_app
from manager.fleet import FleetStore
from manager.fleet.approvals import ApprovalStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.overrides import OverrideStore
from manager.fleet.redis_client import open_client
from manager.market.decisions import Override, OverrideKind

BINARY = secure_redis_binary()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(
        BINARY is None,
        reason="no Redis 7 with TLS here (SECURE_REDIS, or PATH; the wheel's has none): see .ci/secure-redis",
    ),
]

A = "account-001"


class SecureRedis:
    """A server with the files of `manager secure init`, and an administrator for the test."""

    def __init__(self, directory: Path, *hosts: str) -> None:
        self.directory = directory / "secure"
        self.port = free_port()
        self.socket = directory / "admin.sock"
        made = self.manage("init", "--port", str(self.port), *(f"--host={host}" for host in hosts))
        assert made.returncode == 0, made.stderr
        self.said = made.stdout
        # Only the test has an administrator; a fleet has none.
        with (self.directory / "users.acl").open("a") as file:
            file.write("user test on nopass allkeys allchannels +@all\n")
        self.data = directory
        self.log = directory / "redis.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(BINARY), str(self.directory / "redis.conf"), "--dir", str(self.data)),
                    *("--unixsocket", str(self.socket)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, what="the secured Redis answers")

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "manager.cli", "secure", *arguments, "--dir", str(self.directory)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def admin(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), username="test", password="any")

    def url(self, user: str) -> str:
        return (self.directory / f"{user}.url").read_text().strip()

    def as_user(self, user: str) -> Any:
        return redis.Redis.from_url(self.url(user))

    def denied(self) -> list[str]:
        """Return the entries of `ACL LOG`, and clear it."""
        with self.admin() as client:
            log = client.acl_log()
            client.acl_log_reset()
        return [f"{one['username']}: {one['reason']} {one['object']}" for one in log]

    def _answers(self) -> bool:
        try:
            with self.admin() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def secure(short_dir: Path) -> Iterator[SecureRedis]:
    directory = short_dir / "r"
    directory.mkdir()
    found = SecureRedis(directory, "test-host", "other-host")
    yield found
    found.close()


class SecureFleet(Fleet):
    """A host whose agent has the URL of its own user; its manager has the manager's URL."""

    def __init__(
        self, directory: Path, server: SecureRedis, host: str = "test-host", beside: "Fleet | None" = None
    ) -> None:
        class Server(RedisServer):
            def __init__(self) -> None:
                self.url = server.url("manager")

        super().__init__(directory, Server(), host, beside)
        self.secure = server
        self.user = f"host-{host}"

    @property
    def environment(self) -> dict[str, str]:
        found = super().environment
        del found["MANAGER_REDIS_URL"]
        return {**found, "MANAGER_REDIS_URL_FILE": str(self.secure.directory / f"{self.user}.url")}

    def manage(self, *arguments: str, user: str = "manager") -> "subprocess.CompletedProcess[str]":
        host, self.user = self.user, user
        try:
            return self.run(*arguments)
        finally:
            self.user = host


@pytest.fixture
def fleet(short_dir: Path, secure: SecureRedis) -> Iterator[SecureFleet]:
    found = SecureFleet(short_dir, secure)
    found.start_venue()
    found.start_agent()
    yield found
    found.close()


def test_everything_works_with_tls_and_least_rights(
    fleet: SecureFleet, secure: SecureRedis, short_dir: Path
) -> None:
    fleet.add_accounts(3)
    fleet.add_account("auto", 5050, failover="auto")
    other = SecureFleet(short_dir / "other", secure, "other-host", beside=fleet)
    try:
        other.start_agent()
        assert secure.denied() == []
        for arguments in (
            ("start", A),
            ("restart", A),
            ("start-all",),
            ("ps",),
            ("hosts",),
            ("info", A),
            ("validate",),
            ("stop", "auto"),
            ("move", "auto", "--to", "test-host"),
            ("config", "push"),
            ("drain", "other-host", "--wait"),
            ("resume-host", "other-host"),
            ("batch",),
            ("audit",),
            ("events",),
            ("doctor",),
            ("stop", A),
        ):
            done = fleet.manage(*arguments)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        for user in ("manager", "reader"):
            eventually(partial(_stop_is_last, fleet, user), what=f"{user} reads the history")
        fleet.await_ticks()
        other.await_ticks()
        assert fleet.manage("stop-all").returncode == 0
        # Redis 7.0 lets only an administrator read its settings; doctor reports that and continues.
        refused = [one for one in secure.denied() if "config|get" not in one]
        assert refused == []
    finally:
        other.close()


def test_chords_and_saved_groups_work_with_least_rights(fleet: SecureFleet, secure: SecureRedis) -> None:
    """The hosts count a chord's tasks and send its callback to a service's queue."""
    fleet.add_accounts(2)
    script = f"""
import threading
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker
from celery.result import GroupResult

app = Celery("desk", broker={secure.url("manager")!r}, backend={secure.url("manager")!r})

@app.task(name="desk.report", queue="callback.desk")
def report(infos):
    return [info["status"] for info in infos]

starts = [app.signature("tasks.start_worker", args=[a]) for a in ("account-001", "account-002")]
app.conf.task_default_queue = "callback.desk"
with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
    sent = chord([start.set(queue="celery") for start in starts])(report.s().set(queue="callback.desk"))
    print(sent.get(timeout=60))
ids = ("account-001", "account-002")
stops = group(app.signature("tasks.stop_worker", args=[a], queue="celery") for a in ids)
saved = stops.apply_async()
saved.save()
print(GroupResult.restore(saved.id, app=app).get(timeout=60))
"""
    secure.denied()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert secure.denied() == [], done.stderr
    assert done.stdout.splitlines() == ["['running', 'running']", "[True, True]"], done.stderr
    with secure.as_user("flower") as client:
        refused((lambda: client.publish("celery-taskset-meta-x", "an answer"),))


def test_a_secured_redis_that_starts_again_has_lost_nothing(fleet: SecureFleet, secure: SecureRedis) -> None:
    """Redis replays its file as the user `default`, and skips transactions that this user has no right to."""
    fleet.add_accounts(3)
    assert fleet.manage("start-all").returncode == 0
    fleet.end_agent()  # so that no agent writes the data to Redis again
    before = {info.account_id: info.worker_id for info in fleet.store.list_workers()}
    wanted = set(DesiredStore(secure.url("manager")).desired_accounts())
    secure.close()
    secure.start()
    assert {info.account_id: info.worker_id for info in fleet.store.list_workers()} == before
    assert set(DesiredStore(secure.url("manager")).desired_accounts()) == wanted == set(before)
    assert "NOPERM" not in secure.log.read_text()
    # Nevertheless a client without a user name cannot log in.
    for protocol in (2, 3):
        with pytest.raises(redis.RedisError, match=r"(?i)authenticat"):
            redis.Redis(unix_socket_path=str(secure.socket), protocol=protocol).ping()


def test_a_read_only_user_cannot_send_commands(fleet: SecureFleet, secure: SecureRedis) -> None:
    fleet.add_accounts(1)
    assert fleet.manage("start", A).returncode == 0
    secure.denied()
    for looking in (("ps",), ("hosts",), ("info", A), ("events",), ("audit",), ("batch",)):
        done = fleet.manage(*looking, user="reader")
        assert done.returncode == 0, (looking, done.stderr)
    assert secure.denied() == []
    result = fleet.manage("stop", A, user="reader")
    assert result.returncode == 1
    assert "does not permit this user" in result.stderr
    assert fleet.status(A) == "running"


def refused(acts: tuple[Callable[[], Any], ...]) -> None:
    for act in acts:
        with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM|can't access"):
            act()


def _runs(fleet: SecureFleet, user: str) -> list[dict[str, Any]]:
    done = fleet.manage("history", A, "--json", user=user)
    assert done.returncode == 0, (done.stdout, done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _stop_is_last(fleet: SecureFleet, user: str) -> bool:
    runs = _runs(fleet, user)
    return bool(runs) and runs[-1]["ended_why"] == "stop"


def test_a_hosts_user_writes_no_other_hosts_records_and_reads_no_more_than_it_must(
    secure: SecureRedis,
) -> None:
    with secure.as_user("host-test-host") as client:
        client.set("manager:host:test-host:agent", "mine")
        client.lpush("host.other-host", "a task that is passed on")
        client.sadd("manager:hosts", "test-host", "other-host")
        acts: tuple[Callable[[], Any], ...] = (
            lambda: client.set("manager:host:other-host:agent", "forged"),
            lambda: client.hset("manager:host:other-host:workers", "a", "forged"),
            lambda: client.delete("manager:host:other-host:drain"),
            lambda: client.xadd("manager:host:other-host:runs", {"run": "forged"}),
            lambda: client.xtrim("manager:host:other-host:runs", 0),
            lambda: client.xrange("manager:host:other-host:runs"),
            lambda: client.blpop(["manager:host:other-host:nudges"], timeout=1),
            lambda: client.brpop(["host.other-host"], timeout=1),
            lambda: client.get("manager:audit"),
            lambda: client.xrange("manager:audit"),
            lambda: client.set("manager:config:current", "1 forged"),
            lambda: client.set("somebody-elses", "key"),
            client.flushall,
            client.flushdb,
            lambda: client.keys("*"),
            client.scan,
            lambda: client.config_get("*"),
            lambda: client.execute_command("ACL", "LIST"),
            lambda: client.eval("return redis.call('SET', 'manager:host:other-host:agent', 'x')", 0),
            client.shutdown,
            lambda: client.publish("elsewhere", "x"),
            lambda: client.delete("manager:audit"),
            lambda: client.set("manager:audit", "x"),
            lambda: client.xtrim("manager:events", 0),
            lambda: client.xgroup_create("manager:audit", "g", "0"),
            lambda: client.xadd("manager:audit", {"what": "x"}, maxlen=1),
            lambda: client.xadd("manager:audit", {"what": "x"}, id="18446744073709551615-1"),
            lambda: client.rpush("manager:audit:host:other-host", "forged"),
            lambda: client.lpush("manager:audit:host:test-host", "forged before all others"),
            lambda: client.ltrim("manager:audit:host:test-host", 1, 0),
            lambda: client.delete("manager:audit:host:test-host"),
            lambda: client.unlink("manager:audit:host:test-host"),
            lambda: client.expire("manager:audit:host:test-host", 1),
            lambda: client.lset("manager:audit:host:test-host", 0, "forged"),
            lambda: client.lpop("manager:audit:host:test-host"),
            lambda: client.rename("manager:audit:host:test-host", "manager:desired"),
            lambda: client.rename("manager:desired", "manager:audit:host:test-host"),
            lambda: client.lmove("manager:audit:host:test-host", "celery"),
            lambda: client.set("manager:audit:host:test-host", "x"),
            lambda: client.sunionstore("manager:audit:hosts", "manager:batches"),
            lambda: client.srem("manager:audit:hosts", "test-host"),
            lambda: client.lrange("manager:audit:host:test-host", 0, -1),
            lambda: client.eval("return redis.call('DEL', 'manager:audit:host:test-host')", 0),
            lambda: client.eval("return redis.call('LPOP', KEYS[1])", 1, "manager:audit:host:test-host"),
            lambda: client.delete("manager:hosts"),
            lambda: client.srem("manager:hosts", "other-host"),
            lambda: client.delete("manager:host:other-host:nudges"),
            lambda: client.delete("host.other-host"),
            lambda: client.delete("host.other-host\x06\x163"),
            lambda: client.ltrim("host.other-host", 1, 0),
            lambda: client.set("host.other-host", "x"),
            lambda: client.set("host.a-third", "x"),
            lambda: client.delete("x.reply.celery.pidbox"),
            lambda: client.hset("unacked", "planted", "a task"),
        )
        refused(acts)
        # What docs/explanation/security.md lists as still possible.
        client.rpush("manager:audit:host:test-host", "it may add")
        client.xadd("manager:events", {"status": "forged"}, maxlen=1)
        client.lpush("celery", "a task for all")
        assert client.rpop("celery") == b"a task for all"
        client.delete("celery", "manager:desired", "manager:lease:paper:S:1", "manager:batches")
        client.expire("manager:host:other-host:nudges", 0)
    with secure.as_user("flower") as client:
        acts = (
            lambda: client.rpush("celery", "a task"),
            lambda: client.hset("unacked", "planted", "a task that an agent would send"),
            lambda: client.publish("celery-task-meta-x", "an answer"),
        )
        refused(acts)
    with secure.as_user("reader") as client:
        acts = (
            lambda: client.client_pause(1),
            lambda: client.client_kill_filter(_type="normal"),
            client.client_list,
            lambda: client.set("manager:desired:rules", "1"),
            lambda: client.xadd("manager:host:test-host:runs", {"run": "forged"}),
            lambda: client.eval("return 1", 0),
        )
        refused(acts)
    with pytest.raises(redis.RedisError):
        redis.Redis(port=secure.port, ssl=True, ssl_cert_reqs="none").ping()


def test_a_host_follows_and_removes_ended_overrides_and_sets_none(secure: SecureRedis) -> None:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    ended = Override(kind=OverrideKind.RUN, at=at, until=at + timedelta(hours=1), by="ops")
    with secure.admin() as client:
        OverrideStore("secured", client).set("a", ended)
    with secure.as_user("host-test-host") as client:
        store = OverrideStore("secured", client)
        assert store.all() == {"a": ended}
        assert store.get("a") == ended
        store.remove_ended({"a": ended})
        assert store.all() == {}
        refused((lambda: client.hset("manager:overrides", "a", "forged"),))
    with secure.admin() as client:
        kinds = [fields.get(b"type") for _, fields in client.xrange("manager:events")]
        assert kinds == [b"schedule.override", b"schedule.expired"]


def test_a_host_follows_and_removes_approvals_and_gives_none(secure: SecureRedis) -> None:
    with secure.admin() as client:
        ApprovalStore("secured", client).approve("a", "0123456789ab", by="ops")
    with secure.as_user("host-test-host") as client:
        store = ApprovalStore("secured", client)
        assert store.versions() == {"a": "0123456789ab"}
        refused((lambda: client.hset("manager:approvals", "a", "forged"),))
        store.remove("a")
        assert store.versions() == {}


def test_a_stolen_host_credential_takes_nothing_from_the_audit_trail(
    fleet: SecureFleet, secure: SecureRedis
) -> None:
    fleet.add_accounts(1)
    for command in ("start", "stop"):
        assert fleet.manage(command, A).returncode == 0
    with secure.as_user("host-test-host") as client:
        for forged in (
            "9e99 {}",
            "nonsense",
            '1.0 {"by": "somebody else", "what": "start", "host": "other-host"}',
        ):
            client.rpush("manager:audit:host:test-host", forged)
        client.sadd("manager:audit:hosts", "never", "not a name", b"\xff")
    assert secure.denied() == []

    def trail(user: str) -> list[dict[str, Any]]:
        result = fleet.manage("audit", "--json", user=user)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    for user in ("manager", "reader"):
        found = trail(user)
        honest = [one for one in found if one["account_id"] == A]
        assert [(one["what"], one["stage"]) for one in honest] == [
            *(("start", "asked"), ("start", "done"), ("stop", "asked"), ("stop", "done"))
        ]
        assert [one["recorded_by"] for one in honest] == ["", "test-host", "", "test-host"]
        # A forged entry names the host that wrote it, and never another writer.
        others = [one for one in found if one["account_id"] != A]
        assert [one["recorded_by"] for one in others] == ["test-host"] * 3
        assert {one["host"] for one in others} == {"test-host"}
    exported = fleet.manage("audit", "--export", "jsonl").stdout.splitlines()
    by_id = {one["id"]: one for one in trail("manager")}
    assert {one["id"]: one for one in map(json.loads, exported)} == by_id
    # A plain Celery task: the agent that receives it records the caller, in its own list too.
    app = Celery(broker=secure.url("manager"), backend=secure.url("manager"))
    app.send_task("tasks.start_worker", args=[A]).get(timeout=30)
    asked = [one for one in trail("manager") if (one["account_id"], one["stage"]) == (A, "asked")]
    assert [one["recorded_by"] for one in asked] == ["", "", "test-host"]
    assert [one for one in secure.denied() if "host-" in one] == []


def test_hosts_that_have_the_rights_of_version_0_2_write_where_that_version_reads(
    fleet: SecureFleet, secure: SecureRedis
) -> None:
    with secure.admin() as client:
        client.acl_setuser("host-test-host", enabled=True, reset_keys=False)
        client.execute_command(
            *(
                "ACL",
                "SETUSER",
                "host-test-host",
                "clearselectors",
                "%W~manager:hosts",
                "%W~manager:host:*:nudges",
            ),
            *("%W~host.*", "%W~*.reply.celery.pidbox*", "(+xadd %W~manager:events %W~manager:audit)"),
        )
    fleet.add_accounts(1)
    assert fleet.manage("start", A).returncode == 0
    with secure.admin() as client:
        done = [fields for _, fields in client.xrange("manager:audit") if fields[b"stage"] == b"done"]
        assert [(one[b"what"], one[b"host"]) for one in done] == [(b"start", b"test-host")]
        assert client.exists("manager:audit:host:test-host") == 0


def test_flower_shows_the_fleet_with_rights_that_command_nothing(
    fleet: SecureFleet, secure: SecureRedis, tmp_path: Path
) -> None:
    host, fleet.user = fleet.user, "flower"
    flower = Flower(fleet, tmp_path)
    fleet.user = host
    fleet.add_accounts(1)

    def seen() -> bool:
        states = {task["state"] for task in flower.tasks()}
        if not states:
            # Flower knows tasks only by their events, and misses those before it listened.
            assert fleet.manage("start", A).returncode == 0
        return "SUCCESS" in states

    eventually(seen, within=30, what="Flower has seen a start")
    assert [one for one in secure.denied() if one.startswith("flower")] == []
    assert "permission" not in fleet.log("flower")


def test_another_authority_a_wrong_password_and_no_tls_are_refused_with_a_reason(
    fleet: SecureFleet, secure: SecureRedis, tmp_path: Path
) -> None:
    right = secure.url("manager")
    fake = tmp_path / "fake"
    made = subprocess.run(
        [sys.executable, "-m", "manager.cli", "secure", "init", "--dir", str(fake)],
        check=True,
        capture_output=True,
    )
    assert made.returncode == 0
    password = re.search(r"manager:([^@]+)@", right)
    assert password is not None
    wrong = {
        "authority": right.replace(str(secure.directory), str(fake)),
        "password": right.replace(password[1], "wrong"),
        "plain": re.sub(r"\?.*", "", right).replace("rediss", "redis"),
    }
    for name, url in wrong.items():
        (secure.directory / f"{name}.url").write_text(url)
    for name, reason in (
        ("authority", "certificate verify failed"),
        ("password", "refuses the login"),
        ("plain", "cannot be used"),
    ):
        result = fleet.manage("ps", user=name)
        assert result.returncode == 1
        assert reason in result.stderr
        assert password[1] not in result.stderr
        assert "Traceback" not in result.stderr


def test_nothing_secret_is_said_or_open_and_a_second_init_changes_no_password(secure: SecureRedis) -> None:
    passwords = [re.search(r":([^:@]+)@", path.read_text()) for path in secure.directory.glob("*.url")]
    assert len(passwords) == 8
    acl = (secure.directory / "users.acl").read_text()
    for password in passwords:
        assert password is not None
        assert password[1] not in secure.said + acl
    assert "user default off" in acl
    assert secure.directory.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in secure.directory.iterdir()} == {0}
    before = {path.name: path.read_bytes() for path in secure.directory.iterdir()}
    again = secure.manage("init", "--port", str(secure.port), "--host", "third")
    assert again.returncode == 0
    after = {path.name: path.read_bytes() for path in secure.directory.iterdir()}
    assert set(after) - set(before) == {"host-third.url"}
    # The user `default` of version 0.1 is corrected.
    users = secure.directory / "users.acl"
    users.write_bytes(
        after["users.acl"].replace(
            users.read_bytes().splitlines()[0], b"user default off resetkeys resetchannels -@all"
        )
    )
    assert secure.manage("init", "--port", str(secure.port)).returncode == 0
    assert users.read_bytes() == after["users.acl"]
    assert {name for name in before if before[name] != after[name]} == {"redis.crt", "redis.key", "users.acl"}
    assert after["users.acl"].startswith(before["users.acl"])
    assert secure.manage("add-host", "fourth").returncode == 0
    twice = secure.manage("add-host", "fourth")
    assert twice.returncode == 1
    assert "already" in twice.stderr
    assert secure.manage("add-host", "no name!").returncode == 1
    with secure.admin() as client:
        client.execute_command("ACL", "LOAD")
    store = FleetStore(secure.url("host-fourth"))
    assert store.hosts() == []
    store.close()
    json.dumps(secure.denied())


def test_every_reader_of_a_url_without_options_verifies_the_certificate(secure: SecureRedis) -> None:
    url = secure.url("manager")
    bare = url.partition("?")[0]
    assert open_client(url).ping()
    apps = [sender_app(url), sender_app(bare)]
    with apps[0].connection() as connection:
        connection.connect()
    assert apps[0].backend.client.ping()
    with apps[1].connection() as connection:
        calls: list[Callable[[], Any]] = [
            open_client(bare).ping,
            connection.connect,
            apps[1].backend.client.ping,
        ]
        for call in calls:
            # The system does not trust this fleet's authority.
            with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                call()
