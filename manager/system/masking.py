"""Keeps secrets out of text that leaves the process: log lines, output of programs, error texts.

A secret is hidden in every form that it usually takes on its way: as it is, escaped for JSON, Python, HTML or a URL,
and in base64. `Masker` works on a whole text, `StreamMasker` on a stream whose parts may cut a secret anywhere.
"""

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

#: What a secret is replaced with wherever one would have been shown.
MASK: Final = "***"

#: A masked secret is at least this long: masking every "1" would make a log unreadable and reveal the password.
_MIN_SECRET_LENGTH: Final = 4
#: A line of a secret of several lines is hidden by itself from this length on.
_MIN_LINE_LENGTH: Final = 8
#: Characters of a base64 text below which it may be anything.
_MIN_BASE64_LENGTH: Final = 8
#: Bytes of a secret by which its beginning is looked for.
_FEW: Final = 8
#: Characters without which most secrets are, so that most of their forms are one.
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def forms(secret: str) -> set[str]:
    """Return every text that shows `secret`; empty for one that is too short to be hidden."""
    if len(secret) < _MIN_SECRET_LENGTH:
        return set()
    found: set[str] = set()
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        # A program that prints a key prints its lines. The frame of a key is the same for all keys.
        parts = [secret, *(s for s in lines if len(s) >= _MIN_LINE_LENGTH and not s.startswith("-----"))]
    else:
        parts = [secret]
    for part in parts:
        found |= _base64(part)
        found |= {part} if _PLAIN.issuperset(part) else _escaped(part)
    return found


def url_secrets(url: str) -> list[str]:
    """Return the password in a URL, as it stands there and decoded; nothing if it has none. Raises nothing."""
    _scheme, separator, rest = url.partition("://")
    # A password that should have been encoded may hold any of the marks: the last @ before a query ends it.
    credentials, at, _place = rest.partition("?")[0].rpartition("@")
    user, colon, password = credentials.partition(":")
    if not separator or not at:
        return []
    # A name without a password is a password in the wrong place, as often as not.
    found = password if colon else user
    return list(dict.fromkeys(text for text in (found, unquote(found)) if text))


class Masker:
    """Replaces every form of the secrets in a text by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets: Final = tuple(dict.fromkeys(secrets))
        shown = {form for secret in self.secrets for form in forms(secret)}
        # The longest first: a secret that contains another must not leave its rest behind.
        self._forms = sorted(shown, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def values(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mapping with every text in it masked, at any depth."""
        return {key: self._value(value) for key, value in data.items()} if self._forms else dict(data)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            # A word of an enumeration stays what it is.
            masked = self(value)
            return value if masked == value else masked
        if isinstance(value, Mapping):
            return {key: self._value(inner) for key, inner in value.items()}
        return [self._value(inner) for inner in value] if isinstance(value, list | tuple) else value

    def stream(self) -> "StreamMasker":
        """Return a masker for one stream of bytes."""
        return StreamMasker(form.encode(errors="surrogatepass") for form in self._forms)


class StreamMasker:
    """Masks a stream of bytes, wherever it is cut into parts.

    It holds back only what may be the beginning of a secret, and no more than the longest form of one.
    """

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._patterns = sorted({p for p in patterns if p}, key=len, reverse=True)
        self._held = b""
        #: Bytes at the beginning of what is held that belong to a secret which was replaced already.
        self._covered = 0

    def feed(self, part: bytes) -> bytes:
        """Take the next part; returns what can be shown of the stream so far."""
        data = self._held + part
        return self._shown(data, self._safe_until(data))

    def flush(self) -> bytes:
        """Return what was held back: the stream has ended, or a secret that began did not go on."""
        return self._shown(self._held, len(self._held))

    def _shown(self, data: bytes, end: int) -> bytes:
        """Return `data` up to `end`, masked; the rest is held."""
        out: list[bytes] = []
        at = self._covered
        for begin, stop in self._spans(data):
            if begin >= end:
                break
            # One that overlaps what is covered belongs to the mask that was shown for it.
            if begin >= at:
                out += [data[at:begin], MASK.encode()]
            at = max(at, stop)
        out.append(data[at:end])
        self._held, self._covered = data[end:], max(0, at - end)
        return b"".join(out)

    def _spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where secrets stand in `data`, in order; those that overlap as one."""
        found: list[tuple[int, int]] = []
        for pattern in self._patterns:
            at = data.find(pattern)
            while at >= 0:
                found.append((at, at + len(pattern)))
                at = data.find(pattern, at + 1)
        begin = end = -1
        for start, stop in sorted(found):
            if start < end:
                end = max(end, stop)
                continue
            if begin >= 0:
                yield begin, end
            begin, end = start, stop
        if begin >= 0:
            yield begin, end

    def _safe_until(self, data: bytes) -> int:
        """Return from where on `data` may be the beginning of a secret that goes on in the next part."""
        end = len(data)
        safe = end
        for pattern in self._patterns:
            for size in range(1, min(len(pattern), end + 1, _FEW + 1)):
                if data.endswith(pattern[:size]):
                    safe = min(safe, end - size)
            # A longer beginning of it begins with its first few bytes, which are found faster.
            at = data.find(pattern[:_FEW], max(0, end - len(pattern) + 1), safe + _FEW)
            while at >= 0:
                if pattern.startswith(data[at:]):
                    safe = min(safe, at)
                    break
                at = data.find(pattern[:_FEW], at + 1, safe + _FEW)
        return safe


def _escaped(secret: str) -> set[str]:
    """Return the secret as it is and as JSON, Python, HTML and URLs write it, for JSON and Python even twice."""
    found = {secret}
    for _ in range(2):
        found |= {json.dumps(text, ensure_ascii=plain)[1:-1] for text in found for plain in (True, False)} | {
            form
            for text in found
            for form in (repr(text)[1:-1], repr(text + '"')[1:-2], ascii(text)[1:-1], ascii(text + '"')[1:-2])
        }
    raw = secret.encode(errors="surrogatepass")
    found |= {repr(raw)[2:-1], html.escape(secret), html.escape(secret, quote=False)}
    for encoded in (quote(raw), quote(raw, safe=""), quote_plus(raw), quote(raw, safe="!*'()~$&+,;=:@/")):
        found |= {encoded, _lower_hex(encoded)}
    return found


def _lower_hex(text: str) -> str:
    first, *rest = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _base64(secret: str) -> set[str]:
    """Return what is the same in every base64 text that holds the secret, wherever it begins in it (`user:password`)."""
    raw = secret.encode(errors="surrogatepass")
    found: set[str] = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        # The first characters mix in what stands before, and the last one what stands behind.
        first = (0, 2, 3)[before]
        last = len(text) if (before + len(raw)) % 3 == 0 else len(text) - 1
        if last - first >= _MIN_BASE64_LENGTH:
            found |= {text[first:last], text[first:last].replace("+", "-").replace("/", "_")}
    return found
