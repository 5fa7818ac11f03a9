"""Tasks on account files."""

from typing import Any

from manager import wire
from manager.errors import ManagerError
from tasks.app import app, host_service
from tasks.payloads import AccountArguments, checked


@app.task(name=wire.VALIDATE_CONFIG, throws=(ManagerError,))  # type: ignore[untyped-decorator]
def validate_config(account_id: str) -> dict[str, Any]:
    """Check the account's files as this host sees them; returns a ValidationResult."""
    given = checked(AccountArguments, account_id=account_id)
    return host_service().validate_config(given.account_id).to_dict()
