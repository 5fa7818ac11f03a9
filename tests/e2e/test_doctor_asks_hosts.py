"""`manager doctor` asks the hosts about credentials instead of checking its own shell."""

import pytest
from support.fleet import PASSWORD, Fleet

pytestmark = pytest.mark.e2e

A = "account-001"


@pytest.mark.long
def test_a_credential_of_the_agents_environment_is_not_called_missing(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.add_account(A, 5001, password="env:BOT_PASSWORD")

    alone = fleet.run("doctor")
    assert "1 accounts" in alone.stdout
    assert "1 invalid" in alone.stdout
    assert "checked only in this shell (no host agent is live)" in alone.stdout

    fleet.start_venue()
    fleet.extra_environment["BOT_PASSWORD"] = PASSWORD
    fleet.start_agent()
    del fleet.extra_environment["BOT_PASSWORD"]
    result = fleet.run("doctor")
    assert f"0 invalid, 0 with warnings; checked by host {fleet.host}" in result.stdout, result.stdout
    assert result.returncode == 0

    fleet.extra_environment["BOT_TOKEN"] = "here"
    fleet.add_account(A, 5001, password="env:BOT_TOKEN")
    result = fleet.run("doctor")
    assert f"1 invalid, 0 with warnings; checked by host {fleet.host}" in result.stdout, result.stdout
