"""The text of a Windows scheduled task and of its script. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from manager.errors import SettingsError

_TASK: Final = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Worker Manager: written by "manager service install"</Description>
  </RegistrationInfo>
  <Triggers>
    <BootTrigger>
      <Enabled>true</Enabled>
    </BootTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{user}</UserId>
      <LogonType>Password</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>999</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>cmd.exe</Command>
      <Arguments>/d /c ""{script}""</Arguments>
    </Exec>
  </Actions>
</Task>
"""


def task_xml(user: str, script: str) -> str:
    """Return the XML of a task that runs `script` at boot, for `schtasks /Create`.

    The task runs without a time limit, also if no user is logged on. Raises SettingsError for an invalid
    path.
    """
    return _TASK.format(user=escape(user), script=escape(_checked("the script's path", script)))


def loop_script(argv: Sequence[str], environment: Mapping[str, str], log_file: str) -> str:
    """Return the task's script, which restarts the command two seconds after it ends.

    Raises SettingsError for text that a script cannot contain.
    """
    sets = [f'set "{name}={_percent(_checked(name, value))}"' for name, value in environment.items()]
    words = [word if word.isalnum() else f'"{_percent(_checked("the command", word))}"' for word in argv]
    lines = [
        "@echo off",
        "rem Written by `manager service install`; `manager service uninstall` removes it.",
        "chcp 65001 >nul",
        *sets,
        ":again",
        f'{" ".join(words)} >> "{_percent(_checked("the log", log_file))}" 2>&1',
        # `timeout` needs a console, and a task has none.
        "ping -n 3 127.0.0.1 >nul",
        "goto again",
    ]
    return "\r\n".join(lines) + "\r\n"


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _checked(what: str, text: str) -> str:
    if '"' in text or not text.isprintable():
        raise SettingsError(
            f"{what}: {text!r} contains a character that a Windows script cannot contain: change it"
        )
    return text
