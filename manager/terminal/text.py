"""Words for people: counted, and fit for a terminal. A leaf."""


def counted(number: int, word: str) -> str:
    """Return `1 worker`, `2 workers`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def printable(text: str) -> str:
    """Return `text` without what would steer a terminal: it may come from anybody."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
