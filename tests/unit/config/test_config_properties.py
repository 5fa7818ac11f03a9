"""Properties of all configurations."""

from typing import Any

import yaml_rs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from manager.config import document
from manager.config.document import parse_document
from manager.config.merge import merge, own_values, with_currency_defaults

KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(
    st.integers(-5, 5), st.booleans(), st.lists(st.integers(0, 3), max_size=2), st.text("xy", max_size=2)
)
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


@given(MAPPINGS)
def test_merging_with_nothing_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


@given(MAPPINGS, MAPPINGS)
def test_the_upper_layer_wins_and_lists_are_replaced_whole(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    merged = merge(base, over)
    assert set(merged) == set(base) | set(over)
    for key, value in over.items():
        if not isinstance(value, dict) or not isinstance(base.get(key), dict):
            assert merged[key] == value
    for key in set(base) - set(over):
        assert merged[key] == base[key]


@given(MAPPINGS, MAPPINGS)
def test_merging_changes_neither_layer(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = repr((base, over))
    merge(base, over)
    assert repr((base, over)) == before


SECTION = st.fixed_dictionaries({"risk_percent": st.integers(1, 3), "max_positions": st.integers(1, 3)})
ACCOUNTS = st.fixed_dictionaries(
    {
        "default_risk": SECTION,
        "timeout": st.integers(1, 3),
        "currencies": st.lists(
            st.fixed_dictionaries(
                {"symbol": st.sampled_from(["E", "G"]), "enabled": st.booleans(), "risk": SECTION}
            ),
            max_size=2,
            unique_by=lambda currency: currency["symbol"],
        ),
    }
)


@given(ACCOUNTS, st.fixed_dictionaries({"default_risk": SECTION, "timeout": st.integers(1, 3)}))
def test_what_is_saved_over_the_defaults_is_the_account_again(
    account: dict[str, Any], defaults: dict[str, Any]
) -> None:
    own = own_values(account, {}, defaults)
    again = with_currency_defaults(merge(defaults, own))
    for currency in again["currencies"]:
        currency.setdefault("enabled", True)
    assert again == account


SCALARS = st.one_of(
    st.sampled_from(
        [
            "yes",
            "no",
            "on",
            "off",
            "NO",
            "true",
            "false",
            "True",
            "null",
            "~",
            "1",
            "-1",
            "1.5",
            "1e3",
            "0x1F",
            "0o17",
        ]
    ),
    st.sampled_from(
        [".5", "5.", "1_000", "12:30", "2026-01-02", "a b", "a: b", "'x'", '"x\\ty"', "''", "+1"]
    ),
    st.text("abcXYZ 0123456789.-+_:#'\"", min_size=1, max_size=12),
)
LINES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), SCALARS), min_size=1, max_size=5, unique_by=lambda pair: pair[0]
)


@settings(max_examples=500, deadline=None)
@given(LINES)
@example([("a", "0X1F"), ("b", "-0B1"), ("c", "0O17")])
def test_yaml_loaders_disagree_but_our_two_agree(lines: list[tuple[str, str]]) -> None:
    """A text that the fast parser accepts means the same to the slow parser."""
    text = "".join(f"{key}: {value}\n" for key, value in lines)
    document = parse_document(text, text.encode(), "f")
    if document.data is None:
        return
    try:
        precise = YAML(typ="safe", pure=True).load(text)
    except ValueError:
        return  # ruamel reads `._` as a number and fails; it is used only for positions
    except YAMLError as error:
        raise AssertionError(
            f"the precise path refuses {text!r}, the fast one reads {document.data}"
        ) from error
    for key, value in document.data.items():
        other = precise[key]
        # The fast parser reads dates as text.
        if isinstance(other, str | bool | int | float | list | dict) or other is None:
            assert (type(value), value) == (type(other), other), text


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_reading_raise(raw: bytes) -> None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    document = parse_document(text, raw, "f")
    assert (document.data is None) == bool(document.problems)


def test_the_fast_parser_is_the_version_that_the_guards_were_made_for() -> None:
    assert yaml_rs.loads("a: 0123") == {"a": 123}
    assert yaml_rs.loads("a: &x 1\nb: *x") == {"a": 1, "b": 1}


@given(st.text(alphabet="ab0159_-+.:,[]{}<&*!%#'\" \n\t", max_size=60))
@settings(max_examples=500)
def test_the_quick_search_misses_nothing_that_the_expressions_would_find(text: str) -> None:
    raw = text.encode()
    if document._SUSPECT.search(raw):
        assert document._may_be_suspect(raw)
    nested = raw * (document.MAX_DEPTH + 1)
    if document._NESTED_LINE.search(nested):
        assert document._too_deep(nested) is not None
