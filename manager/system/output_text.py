"""Escapes a program's output to one log line, reversibly for every byte.

A leaf.
"""

import re
from typing import Final

#: Characters that would break a log line or get lost: controls except tab and escape, and bytes that are not
#: UTF-8.
_UNSAFE: Final = re.compile("[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f\udc80-\udcff]")
_ESCAPED: Final = re.compile(r"\\(\\|r|x[0-9a-f]{2})")


def escape_output(text: str) -> tuple[str, bool]:
    r"""Return a line's text for the log, and whether it was escaped.

    The escapes are `\\`, `\r` and `\xNN`.
    """
    if not _UNSAFE.search(text):
        return text, False
    text = text.replace("\\", "\\\\").replace("\r", "\\r")
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text), True


def unescape_output(text: str, *, escaped: bool) -> bytes:
    """Return a program's output from its text in the log.

    The inverse of `escape_output`.
    """
    if not escaped:
        return text.encode(errors="surrogateescape")
    raw: list[bytes] = []
    at = 0
    for found in _ESCAPED.finditer(text):
        raw.append(text[at : found.start()].encode(errors="surrogateescape"))
        code = found[1]
        raw.append(b"\\" if code == "\\" else b"\r" if code == "r" else bytes([int(code[1:], 16)]))
        at = found.end()
    raw.append(text[at:].encode(errors="surrogateescape"))
    return b"".join(raw)
