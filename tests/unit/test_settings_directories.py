"""Directory settings with names that are not valid text."""

import os
import sys

import pytest

from manager.errors import SettingsError
from manager.settings import load_settings


@pytest.mark.skipif(sys.platform == "win32", reason="there the environment holds only Unicode")
@pytest.mark.parametrize("name", ["MANAGER_STATE_DIR", "MANAGER_CONFIG_DIR"])
def test_a_directory_that_is_not_utf_8_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, os.fsdecode(b"/tmp/b\xffyte"))
    with pytest.raises(SettingsError, match=rf"{name}: /tmp/b\\udcffyte is not valid UTF-8") as caught:
        load_settings()
    str(caught.value).encode()
