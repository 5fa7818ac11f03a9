"""Placement: respects capacity and rules, is stable, and explains every refusal."""

from hypothesis import given, settings
from hypothesis import strategies as st

from manager.placement.engine import EGRESS_IP, SERVER, FleetView, HostFacts, Needs
from manager.placement.labels import Selection, missing_labels, parse_labels

LABELS = ("mt5", "london", "fast")
ADDRESSES = ("203.0.113.1", "203.0.113.2")
SERVERS = ("", "mt5:Broker-A", "mt5:Broker-B")


def host(name: str = "one", **changes: object) -> HostFacts:
    return HostFacts(**{"name": name, "memory_mb": 8000, "available_mb": 8000, **changes})  # type: ignore[arg-type]


def needs(account_id: str = "a", **changes: object) -> Needs:
    return Needs(account_id=account_id, **changes)  # type: ignore[arg-type]


hosts_ = st.lists(
    st.builds(
        host,
        name=st.sampled_from(["h1", "h2", "h3", "h4"]),
        live=st.sampled_from([True, True, True, False]),
        draining=st.sampled_from([False, False, False, True]),
        labels=st.dictionaries(st.sampled_from(LABELS), st.just(""))
        | st.builds(lambda ip: {EGRESS_IP: ip}, st.sampled_from(ADDRESSES)),
        capacity=st.integers(0, 4),
        memory_mb=st.integers(20, 300),
        available_mb=st.integers(10, 300),
    ),
    unique_by=lambda one: one.name,
    max_size=4,
)
needs_ = st.lists(
    st.builds(
        needs,
        account_id=st.integers(0, 30).map(lambda number: f"a{number}"),
        pin=st.sampled_from([None, None, None, "h1", "h9"]),
        requires=st.lists(st.sampled_from(LABELS), max_size=1).map(tuple),
        memory_mb=st.integers(1, 40),
        server=st.sampled_from(SERVERS),
        avoid=st.frozensets(st.sampled_from([SERVER, EGRESS_IP])),
    ),
    unique_by=lambda one: one.account_id,
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(hosts_, needs_, st.data())
def test_no_rule_is_broken_and_no_account_moves_without_a_reason(
    hosts: list[HostFacts], accounts: list[Needs], data: st.DataObject
) -> None:
    view = FleetView(hosts)
    for one in accounts:
        last = data.draw(st.sampled_from([None, "h1", "h2"]))
        placement = view.place(one, last)
        assert view.place(one, last) == placement
        if placement.host is None:
            assert set(placement.refused) >= set(view.hosts)
            assert "no host fits" in placement.explain()
            continue
        assert placement.host not in placement.refused
        if last in view.hosts and last not in placement.refused and one.pin is None:
            assert placement.host == last
        view.add(one, placement.host)
        # The account stays on its host.
        assert view.place(one, placement.host).host == placement.host
    placed = {one.account_id: (view.host_of(one.account_id), one) for one in accounts}
    for facts in hosts:
        here = [one for where, one in placed.values() if where == facts.name]
        if here:
            assert facts.live
            assert not facts.draining
        assert not facts.capacity or len(here) <= facts.capacity
        assert sum(one.memory_mb for one in here) <= facts.memory_mb * 0.9
        for one in here:
            assert one.pin in {None, facts.name}
            assert not missing_labels(facts.labels, one.requires)
        for one in (one for one in here if one.server):
            if SERVER in one.avoid:
                assert [other.server for other in here].count(one.server) == 1
            if EGRESS_IP in one.avoid:
                names = {other.name for other in hosts if other.egress_ip == facts.egress_ip}
                behind = [other.server for where, other in placed.values() if where in names]
                assert behind.count(one.server) == 1


@settings(max_examples=100, deadline=None)
@given(hosts_, needs_)
def test_a_removed_account_leaves_no_trace(hosts: list[HostFacts], accounts: list[Needs]) -> None:
    view = FleetView(hosts)
    extra = needs("extra", server="mt5:Broker-A", avoid=frozenset({SERVER, EGRESS_IP}), memory_mb=30)
    before = [view.place(one) for one in accounts]
    for name in ("h1", "h2"):
        view.add(extra, name)
    view.remove("extra")
    assert [view.place(one) for one in accounts] == before


def test_accounts_are_spread_by_the_size_of_hosts() -> None:
    view = FleetView([host("small", capacity=10), host("large", capacity=30)])
    for number in range(20):
        one = needs(f"a{number}")
        view.add(one, str(view.place(one).host))
    assert (view.count("small"), view.count("large")) == (5, 15)


def test_every_refusal_names_its_rule() -> None:
    view = FleetView(
        [
            host("silent", live=False),
            host("drained", draining=True),
            host("plain"),
            host("full", capacity=1, labels={"mt5": ""}),
            host("small", memory_mb=100, labels={"mt5": ""}),
            host("busy", available_mb=10, labels={"mt5": ""}),
            host("shared", labels={"mt5": "", EGRESS_IP: "203.0.113.9"}),
        ]
    )
    view.add(needs("x"), "full")
    view.add(needs("y", server="mt5:B"), "shared")
    placement = view.place(
        needs("a", requires=("mt5",), memory_mb=95, server="mt5:B", avoid=frozenset({EGRESS_IP}))
    )
    assert placement.host is None
    assert placement.refused == {
        "silent": "its agent is silent",
        "drained": "it is drained (`manager resume-host drained` ends that)",
        "plain": "it lacks label mt5",
        "full": "it is full: 1 of 1 workers",
        "small": "its memory is reserved: 0 of 90 MB, 95 more needed",
        "busy": "10 MB of memory are free, 95 needed",
        "shared": (
            "another account of server mt5:B is behind its address 203.0.113.9 (avoid_sharing: egress_ip)"
        ),
    }


def test_avoid_sharing_also_refuses_later_accounts() -> None:
    view = FleetView([host("one")])
    view.add(needs("shy", server="mt5:B", avoid=frozenset({SERVER})), "one")
    assert "avoid_sharing" in str(view.refusal(needs("other", server="mt5:B"), "one"))
    assert view.refusal(needs("other", server="mt5:C"), "one") is None


def test_a_pin_to_an_unknown_host_is_explained() -> None:
    placement = FleetView([host("one")]).place(needs("a", pin="two"))
    assert placement.host is None
    assert placement.refused["two"] == "it never reported"
    assert placement.explain() == "a: no host fits (two: it never reported)"


def test_recorded_needs_are_parsed_even_if_malformed() -> None:
    one = needs("a", server="mt5:B", memory_mb=300, avoid=frozenset({EGRESS_IP}))
    assert Needs.from_record("a", one.to_record()) == one
    wrong: list[object] = [None, [], "x", {"memory_mb": "many", "avoid": 3, "server": 5}, {"memory_mb": -1}]
    for nonsense in wrong:
        assert Needs.from_record("a", nonsense) == needs("a")


def test_labels_select() -> None:
    fx = Selection(("fx", "metals"), ("desk=london", "live"))
    assert fx.matches(["fx"], {"desk": "london", "live": "yes"})
    assert not fx.matches(["crypto"], {"desk": "london", "live": "yes"})
    assert not fx.matches(["fx"], {"desk": "paris", "live": "yes"})
    assert not fx.matches(["fx"], {"desk": "london"})
    assert Selection.of("fx", {"desk": "london"}) == Selection(("fx",), ("desk=london",))
    assert not Selection.of(None, None)
    assert parse_labels(" mt5, desk=london ,") == {"mt5": "", "desk": "london"}
