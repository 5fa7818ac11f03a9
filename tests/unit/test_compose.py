"""docker-compose.yml and Dockerfile match the documentation."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
    return found


def test_the_services_are_those_of_a_two_host_fleet(compose: dict[str, Any]) -> None:
    services = compose["services"]
    ours = {"init", "redis", "venue", "london", "newyork", "desk", "scheduler", "flower", "api"}
    assert ours == set(services)
    hosts = [services["london"]["environment"], services["newyork"]["environment"]]
    assert len({host["MANAGER_HOST"] for host in hosts}) == 2
    assert len({host["MANAGER_LABELS"] for host in hosts}) == 2
    states = [
        [volume for volume in services[name]["volumes"] if volume.endswith(":/var/lib/worker-manager")]
        for name in ("london", "newyork", "desk")
    ]
    assert len({volume for volumes in states for volume in volumes}) == 3


def test_only_flower_is_published_and_only_to_this_machine(compose: dict[str, Any]) -> None:
    services = compose["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert sorted(ports) == ["api", "flower"]
    assert all(port.startswith("127.0.0.1:") for found in ports.values() for port in found)
    assert compose["networks"]["fleet"]["internal"] is True
    for name, service in services.items():
        if name == "init":
            assert service["network_mode"] == "none"
        else:
            assert "fleet" in service["networks"]


def test_every_long_lived_service_has_a_health_check(compose: dict[str, Any]) -> None:
    # The image brings the hosts' own: `manager healthcheck`.
    assert "manager" in (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2]
    for name, service in compose["services"].items():
        if name not in {"init", "london", "newyork"}:
            assert service["healthcheck"]["test"], name
    assert all(compose["services"][name]["stop_grace_period"] == "90s" for name in ("london", "newyork"))


def test_secrets_are_files_and_each_service_has_its_own_alone(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for key, value in (service.get("environment") or {}).items():
            assert not re.search("PASSWORD|TOKEN", key), name
            assert "@" not in str(value), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        if name != "init":
            assert service["user"] == "10001:10001"
            secrets = [volume for volume in service.get("volumes", []) if volume.startswith("secrets-")]
            assert len(secrets) <= 1, name
            assert all(volume.endswith(":/run/fleet:ro") for volume in secrets), name
    owners = [
        volume.partition(":")[0]
        for name, service in compose["services"].items()
        for volume in service.get("volumes", [])
        if name != "init" and volume.startswith("secrets-")
    ]
    assert len(owners) == len(set(owners))


def test_the_image_runs_as_an_unprivileged_user_and_contains_no_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "USER 10001:10001" in text
    assert 'ENTRYPOINT ["tini", "--"]' in text
    assert not re.search(r"(?i)password|\.url|secrets/", text)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "**", "only what is named goes into the image"
