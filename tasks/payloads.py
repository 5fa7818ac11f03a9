"""What tasks accept. Whoever reaches Redis can send anything, so nothing is taken for what it should be."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from manager.errors import InvalidPayloadError

#: Seconds. A stop that may take longer than a day is a mistake.
_Timeout = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
#: Only bounded here; which ids are valid is the configuration's to say, with a message of its own.
_AccountId = Annotated[StrictStr, Field(max_length=1000)]


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountArguments(_Arguments):
    account_id: _AccountId


class BatchStartArguments(_Arguments):
    apply_defaults: StrictBool = True
    validate_first: StrictBool = True


class StartArguments(BatchStartArguments):
    account_id: _AccountId


class BatchStopArguments(_Arguments):
    timeout: _Timeout | None = None


class StopArguments(BatchStopArguments):
    account_id: _AccountId


M = TypeVar("M", bound=_Arguments)


def checked(model: type[M], **arguments: Any) -> M:
    """Return the arguments as `model`. Raises InvalidPayloadError with each problem, and without the values."""
    try:
        return model(**arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)
        )
        raise InvalidPayloadError(f"the task's arguments do not fit: {problems}") from None
