"""Client order ids: one decision, one id, in the forms that venues accept."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.gateways.base import Side
from manager.trading.orderids import (
    OrderId,
    client_order_id,
    entry_intent,
    exit_intent,
    flatten_intent,
    identity_tag,
    is_ours,
    order_id,
    partial_intent,
    stop_intent,
    strategy_key,
)

IDENTITY = "mt5:Broker-Demo:5001"
BAR = datetime(2026, 11, 25, 12, 55, tzinfo=UTC)
KEY = "simple_ma/M5/0"


def test_the_published_example_in_all_forms() -> None:
    found = order_id(IDENTITY, "EURUSD", KEY, BAR, "entry", 0)
    assert found.text == "wcu4qvbivcop7zjfrlu6epfsyw4"
    assert found.uuid == "15390a85-1513-8ffc-a4b1-5d3c479658b7"
    assert found.hex == "0x15390a8515139ffca4b15d3c479658b7"
    assert found.magic(IDENTITY) == 9004970789661119763
    assert client_order_id(IDENTITY, "EURUSD", KEY, BAR, "entry", 0) == found.text


def test_the_same_bar_after_a_restart_in_another_zone_gives_the_same_id() -> None:
    tokyo = BAR.astimezone(timezone(timedelta(hours=9)))
    assert client_order_id(IDENTITY, "EURUSD", KEY, tokyo, "entry", 0) == client_order_id(
        IDENTITY, "EURUSD", KEY, BAR, "entry", 0
    )


@pytest.mark.parametrize(
    "other",
    [
        ("mt5:Broker-Demo:5002", "EURUSD", KEY, BAR, "entry", 0),
        (IDENTITY, "EURUSD.m", KEY, BAR, "entry", 0),
        (IDENTITY, "EURUSD", "rsi/M5/0", BAR, "entry", 0),
        (IDENTITY, "EURUSD", KEY, BAR + timedelta(minutes=5), "entry", 0),
        (IDENTITY, "EURUSD", KEY, BAR, "entry-long", 0),
        (IDENTITY, "EURUSD", KEY, BAR, "entry", 1),
    ],
)
def test_every_part_changes_the_id(other: tuple[str, str, str, datetime, str, int]) -> None:
    assert client_order_id(*other) != client_order_id(IDENTITY, "EURUSD", KEY, BAR, "entry", 0)


@given(st.binary(min_size=16, max_size=16))
def test_every_id_fits_the_venues(raw: bytes) -> None:
    found = OrderId(raw)
    assert len(found.text) == 27
    assert found.text.isalnum() and found.text == found.text.lower()
    assert len(found.uuid) == 36
    assert found.uuid[14] == "8" and found.uuid[19] in "89ab"
    assert len(found.hex) == 34
    assert 0 <= found.magic(IDENTITY) < 2**63
    assert is_ours(found.magic(IDENTITY), IDENTITY)


def test_an_order_of_another_account_is_not_ours() -> None:
    other = "mt5:Broker-Demo:5002"
    assert identity_tag(other) != identity_tag(IDENTITY)
    assert not is_ours(order_id(other, "EURUSD", KEY, BAR, "entry").magic(other), IDENTITY)
    assert not is_ours(0, IDENTITY)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    with pytest.raises(ValueError, match="unprintable"):
        client_order_id(IDENTITY, "EUR\x1fUSD", KEY, BAR, "entry")
    with pytest.raises(ValueError, match="empty"):
        client_order_id(IDENTITY, "", KEY, BAR, "entry")


def test_a_naive_time_and_a_negative_attempt_are_errors() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        client_order_id(IDENTITY, "EURUSD", KEY, BAR.replace(tzinfo=None), "entry")
    with pytest.raises(ValueError, match="attempt -1"):
        client_order_id(IDENTITY, "EURUSD", KEY, BAR, "entry", -1)


def test_intents() -> None:
    assert entry_intent(Side.BUY) == "entry-long"
    assert entry_intent(Side.SELL) == "entry-short"
    assert exit_intent("7") == "exit:7"
    assert partial_intent("7") == "partial:7"
    assert stop_intent("7", 2) == "stop:7:2"
    assert flatten_intent("k1", "7") == "flatten:k1:7"


def test_the_strategy_key_has_the_digits_of_its_parameters() -> None:
    # sha256 of {"fast_period":10,"slow_period":20}
    key = strategy_key("simple_ma", "M5", {"slow_period": 20, "fast_period": 10})
    assert key == "simple_ma/M5/18835d14"
    assert key != strategy_key("simple_ma", "M5", {"slow_period": 21, "fast_period": 10})
