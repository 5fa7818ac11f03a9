"""Secrets are masked in every form, and in a stream however it is split."""

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.system.masking import MASK, Masker, url_secrets

SECRET = "p\"a\\ss w'ord/+é&"
KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        json.dumps({"secret": SECRET}),
        json.dumps({"secret": SECRET}, ensure_ascii=False),
        json.dumps(json.dumps({"secret": SECRET})),
        repr({"secret": SECRET}),
        ascii(SECRET),
        repr(SECRET.encode()),
        f"https://user:{quote(SECRET, safe='')}@venue/",
        quote(SECRET),
        quote_plus(SECRET),
        re.sub("%..", lambda found: found[0].lower(), quote(SECRET, safe="")),
        html.escape(SECRET),
    ],
)
def test_a_secret_is_masked_in_every_form(shown: str) -> None:
    masked = Masker([SECRET])(shown)
    assert MASK in masked
    assert not any(part in masked for part in ("ss w", "ss%20w", "ss+w", "'ord", "ord/", "ord%2"))


@pytest.mark.parametrize("user", ["", "a", "ab", "abc", "5001"])
def test_a_secret_is_masked_in_base64_behind_any_user_name(user: str) -> None:
    header = base64.b64encode(f"{user}:hunter2-hunter2".encode()).decode()
    masked = Masker(["hunter2-hunter2"])(f"Authorization: Basic {header}")
    assert MASK in masked
    assert "unter" not in base64.b64decode(masked.split()[-1].replace(MASK, "AAAA") + "==").decode(
        errors="replace"
    )


def test_each_line_of_a_key_is_masked_but_not_its_frame() -> None:
    masked = Masker([KEY])(
        "first\n> MIGHAgEAMBMGByqGSM49\n> AgEGCCqGSM49AwEHBG0w\n-----BEGIN PRIVATE KEY-----"
    )
    assert masked == "first\n> ***\n> ***\n-----BEGIN PRIVATE KEY-----"
    assert Masker([KEY])(f"key: {json.dumps(KEY)}") == 'key: "***"'


def test_short_secrets_are_not_masked() -> None:
    assert Masker(["1", "", "abc"])("1 abc") == "1 abc"


def test_texts_are_masked_at_any_depth() -> None:
    data = {"reason": "bad hunter2", "n": 1, "inner": {"list": ["hunter2", 2.5, None]}}
    assert Masker(["hunter2"]).values(data) == {
        "reason": "bad ***",
        "n": 1,
        "inner": {"list": ["***", 2.5, None]},
    }


def in_parts(secrets: list[str], text: bytes, cuts: list[int]) -> bytes:
    stream = Masker(secrets).stream()
    places = sorted({min(cut, len(text)) for cut in cuts})
    parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    return b"".join([*(stream.feed(part) for part in parts), stream.flush()])


@given(
    st.lists(st.text("ab1", min_size=4, max_size=9), min_size=1, max_size=4),
    st.lists(st.text("ab1 \n", max_size=12), max_size=6),
    st.lists(st.integers(0, 120), max_size=12),
    st.data(),
)
def test_no_cut_lets_a_part_of_a_secret_through(
    secrets: list[str], between: list[str], cuts: list[int], data: st.DataObject
) -> None:
    text = "".join(
        part for gap in between for part in (gap, data.draw(st.sampled_from([*secrets, secrets[0] * 2, ""])))
    )
    whole = in_parts(secrets, text.encode(), [])
    found = in_parts(secrets, text.encode(), cuts).decode()
    assert not any(secret in found for secret in secrets)
    # A mask more or less where two touch is all that a cut may change.
    assert found.replace(MASK, "") == whole.decode().replace(MASK, "")
    covered = [False] * len(text)
    for secret in secrets:
        for at in range(len(text)):
            if text.startswith(secret, at):
                covered[at : at + len(secret)] = [True] * len(secret)
    assert found.replace(MASK, "") == "".join(
        letter for letter, hidden in zip(text, covered, strict=True) if not hidden
    )


def test_only_what_may_begin_a_secret_is_held_back() -> None:
    stream = Masker(["hunter2"]).stream()
    assert stream.feed(b"READY\n") == b"READY\n"
    assert stream.feed(b"it is hunt") == b"it is "
    assert stream.feed(b"ing\n") == b"hunting\n"
    assert stream.feed(b"hunter") == b""
    assert stream.flush() == b"hunter"


def test_a_stream_that_repeats_a_secret_without_end_is_not_kept() -> None:
    stream = Masker(["aaaa"]).stream()
    shown = b"".join(stream.feed(b"a" * 100) for _ in range(50)) + stream.flush()
    assert shown == MASK.encode()
    assert len(stream._held) < 4


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("redis://u:p%40ss@h:1/0", ["p%40ss", "p@ss"]),
        ("redis://:p@ss@h/0?x=a@b", ["p@ss"]),
        ("rediss://onlypass@h", ["onlypass"]),
        ("unix:///run/redis.sock", []),
        ("redis://h/0", []),
        ("", []),
    ],
)
def test_the_password_of_a_url(url: str, secrets: list[str]) -> None:
    assert url_secrets(url) == secrets
