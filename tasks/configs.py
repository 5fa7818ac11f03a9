"""Tasks that validate accounts on a host, with its credentials."""

from typing import Any

from manager import wire
from manager.errors import ManagerError
from manager.models import ValidationResult
from tasks.app import app, validate_here
from tasks.arguments import checked
from tasks.payloads import AccountArguments, AccountsArguments


@app.task(name=wire.VALIDATE_CONFIG, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_config(self: Any, account_id: str) -> dict[str, Any]:
    """Validate the account on this host; return a ValidationResult."""
    given = checked(self, AccountArguments, account_id=account_id)
    return validate_here(given.account_id).to_wire()


@app.task(name=wire.VALIDATE_CONFIGS, bind=True, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_configs(self: Any, account_ids: list[str]) -> dict[str, Any]:
    """Validate accounts on this host; return account id → ValidationResult."""
    given = checked(self, AccountsArguments, account_ids=account_ids)
    answer: dict[str, Any] = {}
    for account_id in given.account_ids:
        try:
            result = validate_here(account_id)
        except ManagerError as error:  # this host does not have the file
            result = ValidationResult(valid=False, account_id=account_id, errors=(str(error),))
        answer[account_id] = result.to_wire()
    return answer
