"""A change detector of one account's files and credential."""

from collections.abc import Hashable
from typing import Any

from manager.config import config_version, watch_secrets
from manager.errors import ManagerError, SlowFilesError
from manager.fleet.desired import DesiredState
from manager.host.workers.bounded_reads import BoundedConfiguration


def account_fingerprint(config_service: BoundedConfiguration, desired: DesiredState) -> Hashable:
    """Return a value that changes with the account's files or credential.

    Raises SlowFilesError.
    """
    try:
        config = config_service.load_account_config(desired.account_id, desired.apply_defaults)
    except SlowFilesError:
        raise
    except ManagerError as error:
        return str(error)

    def credential() -> Any:
        detector = watch_secrets(config, config_service.config_dir)
        return detector() if detector is not None else None

    state = config_service.run(desired.account_id, credential)
    return (config_version(config), hash(config.password), str(state))
