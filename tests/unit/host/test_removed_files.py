"""Removed account files, and directories that are gone for a while."""

from hypothesis import given
from hypothesis import strategies as st

from manager.host.reconcile.removed_files import REMOVED_AFTER_SECONDS, RemovedFiles

TEN = frozenset(f"a{number}" for number in range(10))


def after(*presents: frozenset[str]) -> RemovedFiles:
    found = RemovedFiles()
    for at, present in enumerate(presents):
        found.look(present, at * 2.0)
    return found


def test_a_removed_file_counts_after_30_seconds() -> None:
    files = after(TEN, TEN - {"a1"})
    assert files.removed(2.0 + REMOVED_AFTER_SECONDS - 0.1) == frozenset()
    assert files.removed(2.0 + REMOVED_AFTER_SECONDS) == {"a1"}
    files.look(TEN, 40.0)
    assert files.removed(1e6) == frozenset()


def test_a_directory_that_is_gone_removes_nobody() -> None:
    files = after(TEN, frozenset(), frozenset())
    assert (files.removed(1e6), files.vanished(1e6)) == (frozenset(), TEN)
    files.look(TEN - {"a1"}, 50.0)
    assert files.vanished(1e6) == {"a1"}, "it vanished with the others"


def test_a_fifth_is_not_many() -> None:
    assert after(TEN, TEN - {"a1", "a2"}).removed(1e6) == {"a1", "a2"}
    assert after(TEN, TEN - {"a1", "a2", "a3"}).removed(1e6) == frozenset()


def test_files_removed_one_after_the_other_count_each() -> None:
    assert after(TEN, TEN - {"a1"}, TEN - {"a1", "a2"}).removed(1e6) == {"a1", "a2"}


def test_the_first_look_removes_nobody() -> None:
    assert after(frozenset()).removed(1e6) == frozenset()


@given(st.lists(st.frozensets(st.sampled_from(sorted(TEN))), min_size=1, max_size=12))
def test_an_account_with_a_file_is_never_removed(looks: list[frozenset[str]]) -> None:
    files = after(*looks)
    gone = files.removed(1e6) | files.vanished(1e6)
    assert not gone & looks[-1]
    assert gone <= frozenset().union(*looks)
    assert not files.removed(1e6) & files.vanished(1e6)
