"""Masks secrets in log lines, program output and error texts.

It masks a secret as it is, escaped for JSON, Python, HTML or a URL, and in base64. `Masker` works on a whole
text, `StreamMasker` on a stream whose parts may split a secret anywhere.
"""

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

#: The replacement for a secret.
MASK: Final = "***"

#: Minimum length of a masked secret: masking every "1" would make a log unreadable and reveal the password.
_MIN_SECRET_LENGTH: Final = 4
#: Minimum length from which a line of a multi-line secret is masked separately.
_MIN_LINE_LENGTH: Final = 8
#: Minimum length of a masked base64 text; a shorter one occurs by chance.
_MIN_BASE64_LENGTH: Final = 8
#: Number of bytes by which the beginning of a secret is searched.
_FEW: Final = 8
#: Characters that need escaping in some form; most secrets have none, so their forms are equal.
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def forms(secret: str) -> set[str]:
    """Return every form of `secret` to mask; empty if it is too short."""
    if len(secret) < _MIN_SECRET_LENGTH:
        return set()
    found: set[str] = set()
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        # A program prints a key line by line. The first and last lines are the same for all keys.
        parts = [secret, *(s for s in lines if len(s) >= _MIN_LINE_LENGTH and not s.startswith("-----"))]
    else:
        parts = [secret]
    for part in parts:
        found |= _base64(part)
        found |= {part} if _PLAIN.issuperset(part) else _escaped(part)
    return found


def url_secrets(url: str) -> list[str]:
    """Return the password in a URL, as written and decoded.

    Returns an empty list if it has none. Raises nothing.
    """
    _scheme, separator, rest = url.partition("://")
    # A password that should have been encoded may contain any character: the last @ before a query ends it.
    credentials, at, _place = rest.partition("?")[0].rpartition("@")
    user, colon, password = credentials.partition(":")
    if not separator or not at:
        return []
    # A user name without a password is often a password in the wrong place.
    found = password if colon else user
    return list(dict.fromkeys(text for text in (found, unquote(found)) if text))


class Masker:
    """Replaces every form of the secrets in a text by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets: Final = tuple(dict.fromkeys(secrets))
        shown = {form for secret in self.secrets for form in forms(secret)}
        # Longest first, so that a secret that contains another one is masked completely.
        self._forms = sorted(shown, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def values(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mapping with every text masked, at any depth."""
        return {key: self._value(value) for key, value in data.items()} if self._forms else dict(data)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            # An enumeration member is never a secret.
            masked = self(value)
            return value if masked == value else masked
        if isinstance(value, Mapping):
            return {key: self._value(inner) for key, inner in value.items()}
        return [self._value(inner) for inner in value] if isinstance(value, list | tuple) else value

    def stream(self) -> "StreamMasker":
        """Return a masker for one stream of bytes."""
        return StreamMasker(form.encode(errors="surrogatepass") for form in self._forms)


class StreamMasker:
    """Masks a stream of bytes, however it is split into parts.

    It holds back only bytes that may begin a secret, at most the length of its longest form.
    """

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._patterns = sorted({p for p in patterns if p}, key=len, reverse=True)
        self._held = b""
        #: Number of held bytes at the beginning that belong to an already replaced secret.
        self._covered = 0

    def feed(self, part: bytes) -> bytes:
        """Add the next part and return the masked bytes that are final."""
        data = self._held + part
        return self._shown(data, self._safe_until(data))

    def flush(self) -> bytes:
        """Return the held bytes: they are not the beginning of a secret."""
        return self._shown(self._held, len(self._held))

    def _shown(self, data: bytes, end: int) -> bytes:
        """Return `data` up to `end`, masked; hold the rest."""
        out: list[bytes] = []
        at = self._covered
        for begin, stop in self._spans(data):
            if begin >= end:
                break
            # A secret that overlaps a replaced one is covered by the same mask.
            if begin >= at:
                out += [data[at:begin], MASK.encode()]
            at = max(at, stop)
        out.append(data[at:end])
        self._held, self._covered = data[end:], max(0, at - end)
        return b"".join(out)

    def _spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield start and end of the secrets in `data`, ascending.

        Overlapping ones are merged.
        """
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
        """Return the position from which `data` may begin an incomplete secret."""
        end = len(data)
        safe = end
        for pattern in self._patterns:
            for size in range(1, min(len(pattern), end + 1, _FEW + 1)):
                if data.endswith(pattern[:size]):
                    safe = min(safe, end - size)
            # Any longer beginning starts with these first bytes, and searching for them is faster.
            at = data.find(pattern[:_FEW], max(0, end - len(pattern) + 1), safe + _FEW)
            while at >= 0:
                if pattern.startswith(data[at:]):
                    safe = min(safe, at)
                    break
                at = data.find(pattern[:_FEW], at + 1, safe + _FEW)
        return safe


def _escaped(secret: str) -> set[str]:
    """Return the secret as in JSON, Python, HTML and URLs.

    The forms of JSON and Python are also escaped twice.
    """
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
    """Return the common part of base64 texts with the secret, per offset.

    The secret may be a part of the encoded text, as in `user:password`.
    """
    raw = secret.encode(errors="surrogatepass")
    found: set[str] = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        # The first characters also encode the text before, and the last one the text after.
        first = (0, 2, 3)[before]
        last = len(text) if (before + len(raw)) % 3 == 0 else len(text) - 1
        if last - first >= _MIN_BASE64_LENGTH:
            found |= {text[first:last], text[first:last].replace("+", "-").replace("/", "_")}
    return found
