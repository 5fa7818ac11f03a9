"""The user and group of a program.

Only root can run a program as another user.
"""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path


class ProgramUserError(ValueError):
    """Raised when a program cannot run as the configured user.

    The text says why and what to do.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        #: The wrong key: `user` or `group`.
        self.key = key


@dataclass(frozen=True, slots=True)
class ProgramUser:
    """The user of a program."""

    name: str
    uid: int
    gid: int
    #: All groups, including the primary one.
    groups: tuple[int, ...]
    home: str
    shell: str

    def environment(self) -> dict[str, str]:
        """Return the variables that a login as this user would set."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}

    def cannot_reach(self, path: Path) -> str | None:
        """Return the first directory above `path` that the user may not enter.

        None if there is none. Checks only owner, group and mode, not access control lists.
        """
        if self.uid == 0:
            return None
        for directory in [*reversed(path.parents), path]:
            try:
                found = directory.stat()
            except OSError:
                return None
            if stat.S_ISDIR(found.st_mode) and not self.may(found, stat.S_IXOTH):
                return f"{directory} (mode {stat.S_IMODE(found.st_mode):04o})"
        return None

    def may(self, found: os.stat_result, right: int) -> bool:
        """Return whether the mode grants a right.

        `right` is the bit for others, such as `stat.S_IXOTH`.
        """
        if self.uid == 0:
            return True
        if found.st_uid == self.uid:
            right <<= 6
        elif found.st_gid in self.groups:
            right <<= 3
        return bool(found.st_mode & right)


if sys.platform == "win32":

    def program_user(user: str | None, group: str | None) -> ProgramUser | None:
        """Return the program's user, or None for the worker's user.

        Raises ProgramUserError.
        """
        for key, value in (("user", user), ("group", group)):
            if value is not None:
                raise ProgramUserError(key, "is not supported on Windows: run the host agent as that user")
        return None

else:
    import grp
    import pwd

    def program_user(user: str | None, group: str | None) -> ProgramUser | None:
        """Return the program's user, or None for the worker's user.

        Raises ProgramUserError.

        Root is not needed for the user and group of this process.
        """
        if user is None and group is None:
            return None
        found = _user(str(os.geteuid()) if user is None else user)
        gid = found.pw_gid if group is None else _gid(group)
        if (found.pw_uid, gid) == (os.geteuid(), os.getegid()):
            return None
        if os.geteuid() != 0:
            key = "user" if user is not None and found.pw_uid != os.geteuid() else "group"
            raise ProgramUserError(
                key,
                f"only a host agent that runs as root can run a program as another {key}, and this process "
                f"runs as {_name_of(os.geteuid())}: run the host agent as root, or as "
                f"{user if key == 'user' else group} itself",
            )
        return ProgramUser(
            name=found.pw_name,
            uid=found.pw_uid,
            gid=gid,
            groups=tuple(dict.fromkeys([gid, *os.getgrouplist(found.pw_name, gid)])),
            home=found.pw_dir or "/",
            shell=found.pw_shell or "/bin/sh",
        )

    def _user(user: str) -> pwd.struct_passwd:
        try:
            return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except (KeyError, OverflowError, ValueError):
            raise ProgramUserError(
                "user", f"{user[:60]!r} is not a user of this host: create it (useradd), or name another"
            ) from None

    def _gid(group: str) -> int:
        try:
            found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
        except (KeyError, OverflowError, ValueError):
            raise ProgramUserError(
                "group", f"{group[:60]!r} is not a group of this host: create it (groupadd), or name another"
            ) from None
        return found.gr_gid

    def _name_of(uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"uid {uid}"
