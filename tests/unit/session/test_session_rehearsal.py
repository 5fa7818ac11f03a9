"""The rehearsal of the preloaded process leaves nothing that a worker could inherit by mistake."""

import os
import threading
from pathlib import Path

import pytest

from manager.fleet import pools
from manager.session.rehearsal import rehearse


def test_a_rehearsal_leaves_no_thread_no_file_and_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rehearse()  # imports its modules
    threads = threading.enumerate()
    shared = list(pools._shared)
    descriptors = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []

    rehearse()

    assert threading.enumerate() == threads
    assert list(pools._shared) == shared
    assert not any("127.0.0.1:1/" in str(address) for address in shared)
    assert (os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []) == descriptors
    assert list(tmp_path.iterdir()) == []
