"""Validation of a task's arguments.

Refusals are recorded in the audit trail.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from manager.errors import InvalidPayloadError
from tasks.app import record_refusal
from tasks.payloads import Arguments

M = TypeVar("M", bound=Arguments)


def checked(task: Any, model: type[M], **arguments: Any) -> M:
    """Return the arguments as `model`.

    Raises InvalidPayloadError that names each problem without the values.
    """
    try:
        return model(**arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part)[:80] for part in e['loc'])}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)[:_PROBLEMS]
        )
        raise record_refusal(
            task, InvalidPayloadError(f"the task's arguments do not fit: {problems}")
        ) from None


#: Maximum number of problems in the error.
_PROBLEMS = 10
