"""Models of the tasks' arguments, which are untrusted.

Anyone with access to Redis can send tasks.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from manager.placement.labels import Selection

#: Seconds; more than a day would be a mistake.
_Timeout = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
#: Bounded in length only: the configuration decides which ids are valid, with a clearer message.
_AccountId = Annotated[StrictStr, Field(max_length=1000)]
_Label = Annotated[StrictStr, Field(max_length=200)]


class Arguments(BaseModel):
    """Base of the arguments of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountArguments(Arguments):
    """The arguments of a task for one account."""

    account_id: _AccountId


class StartArguments(AccountArguments):
    """The arguments of a start."""

    apply_defaults: StrictBool = True
    validate_first: StrictBool = True


class StopArguments(AccountArguments):
    """The arguments of a stop."""

    timeout: _Timeout | None = None


class SelectionArguments(Arguments):
    """The accounts of a batch; without group and labels, all."""

    group: _Label | Annotated[list[_Label], Field(max_length=1000)] | None = None
    labels: Annotated[dict[_Label, _Label], Field(max_length=100)] | None = None

    @property
    def selection(self) -> Selection:
        return Selection.of(self.group, self.labels)


class BatchStartArguments(SelectionArguments):
    """The arguments of a start of many accounts."""

    apply_defaults: StrictBool = True
    validate_first: StrictBool = True


class BatchStopArguments(SelectionArguments):
    """The arguments of a stop of many accounts."""

    timeout: _Timeout | None = None


class AccountsArguments(Arguments):
    account_ids: Annotated[list[_AccountId], Field(max_length=100_000)]
