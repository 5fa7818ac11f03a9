"""`python -m manager.session`: a worker in a fresh interpreter; order on stdin, its answers on stdout."""

import os
import sys

from manager.session.entry import run


def main() -> int:
    # Whatever prints must not end up between the messages to the host.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return run(sys.stdin.buffer, answers)


if __name__ == "__main__":
    sys.exit(main())
