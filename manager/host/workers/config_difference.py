"""What a running worker takes of a changed configuration, and what waits for a restart."""

from dataclasses import dataclass, replace

from manager.change.holds import held_changes
from manager.change.reload_classes import WITHOUT_RESTART, FieldChange, ReloadClass, changes, live_config
from manager.config import AccountConfig, config_version
from manager.host.workers.kept_configs import KeptConfig


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """The changes from a running configuration to the one of the account's file.

    `now` need no restart, `later` do, and `held` wait for approval. `merged` is the running configuration
    with the changes in `now`, for the session; `target` is the form of it to keep.
    """

    running: KeptConfig
    now: tuple[FieldChange, ...]
    later: tuple[FieldChange, ...]
    held: tuple[FieldChange, ...]
    merged: AccountConfig
    target: KeptConfig

    @classmethod
    def of(cls, running: KeptConfig, config: AccountConfig, *, holds: bool = False) -> "ConfigDifference":
        """Compare a running configuration with that of the account's file.

        `holds`: it is a real account, and its file is not approved.
        """
        hidden = running.hide(config)
        found = changes(running.config, hidden)
        held = held_changes(found, running.config.reload.hold) if holds else ()
        found = tuple(one for one in found if one not in held)
        now = tuple(one for one in found if one.reload_class in WITHOUT_RESTART)
        later = tuple(one for one in found if one.reload_class not in WITHOUT_RESTART)
        waiting = (*later, *held)
        merged = live_config(running.config, config, waiting)
        if not waiting:
            version = config_version(config)
        else:
            # Of both, the values of the running one that are hidden are unknown here.
            version = config_version(merged) if now else running.version
        kept = live_config(running.config, hidden, waiting)
        target = replace(running, config=kept, version=version, confirmed=True)
        return cls(running, now, later, held, merged, target)

    @property
    def for_session(self) -> bool:
        """Whether the session must take the change; else only the host agent uses it."""
        live = any(one.reload_class is ReloadClass.LIVE for one in self.now)
        return live or not self.running.confirmed
