"""Tasks on account files, checked as the host that gets them sees them: its credentials, its terminals."""

from typing import Any

from manager import wire
from manager.errors import ManagerError
from manager.models import ValidationResult
from tasks.app import app, checked_here
from tasks.arguments import checked
from tasks.payloads import AccountArguments, AccountsArguments


@app.task(name=wire.VALIDATE_CONFIG, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_config(self: Any, account_id: str) -> dict[str, Any]:
    """Check the account's files as this host sees them; returns a ValidationResult."""
    given = checked(self, AccountArguments, account_id=account_id)
    return checked_here(given.account_id).to_wire()


@app.task(name=wire.VALIDATE_CONFIGS, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_configs(self: Any, account_ids: list[str]) -> dict[str, Any]:
    """Check these accounts' files as this host sees them; returns a ValidationResult for each, by id."""
    given = checked(self, AccountsArguments, account_ids=account_ids)
    answer: dict[str, Any] = {}
    for account_id in given.account_ids:
        try:
            result = checked_here(account_id)
        except ManagerError as error:  # its file is not on this host
            result = ValidationResult(valid=False, account_id=account_id, errors=(str(error),))
        answer[account_id] = result.to_wire()
    return answer
