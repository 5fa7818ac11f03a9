"""Text helpers: plurals, and text that is safe for a terminal. A leaf."""


def counted(number: int, word: str) -> str:
    """Return `1 worker`, `2 workers`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def printable(text: str) -> str:
    """Return untrusted text without terminal control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, room: int | None) -> str:
    """Return the leading words that fit in `room`.

    A part of the first word if none fits.
    """
    if room is None or len(text) <= room:
        return text
    kept = text[: max(0, room - 4)]
    if " " not in kept.strip():
        return f"{text[: room - 3]}..." if room >= 3 else ""
    if not text[len(kept) : len(kept) + 1].isspace():
        kept = kept.rpartition(" ")[0]
    return f"{kept.rstrip()} ..."
