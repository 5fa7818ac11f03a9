"""`python -m manager.session`: a worker in a new interpreter.

It reads its launch specification from stdin and writes messages for the host to stdout.
"""

import os
import sys

from manager.session.entry import run


def main() -> int:
    # Printed output must not mix with the messages to the host.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return run(sys.stdin.buffer, answers)


if __name__ == "__main__":
    sys.exit(main())
