from hypothesis import given
from hypothesis import strategies as st

from manager.states import LIVE, SETTLED, TRANSITIONS, WorkerLifecycleStatus, may_move

S = WorkerLifecycleStatus


def test_every_state_stands_in_the_table() -> None:
    assert set(TRANSITIONS) == set(S)


def test_unknown_is_for_readers_and_is_never_reached() -> None:
    assert all(S.UNKNOWN not in targets for targets in TRANSITIONS.values())


def test_live_and_settled_part_the_states_that_a_host_records() -> None:
    assert not LIVE & SETTLED
    assert set(S) - {S.CREATED, S.UNKNOWN} == LIVE | SETTLED


@given(st.lists(st.sampled_from(S), min_size=1, max_size=20))
def test_a_new_life_always_begins_with_starting(walk: list[WorkerLifecycleStatus]) -> None:
    """From an ended state every path to running passes through starting."""
    state = S.STOPPED
    started = False
    for target in walk:
        if may_move(state, target):
            started = started or target is S.STARTING
            state = target
            assert started or state in SETTLED
