"""What tasks accept. Whoever reaches Redis can send anything, so nothing is taken for what it should be."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from manager.placement.labels import Selection

#: Seconds. A stop that may take longer than a day is a mistake.
_Timeout = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
#: Only bounded here; which ids are valid is the configuration's to say, with a message of its own.
_AccountId = Annotated[StrictStr, Field(max_length=1000)]
_Label = Annotated[StrictStr, Field(max_length=200)]


class Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountArguments(Arguments):
    account_id: _AccountId


class StartArguments(AccountArguments):
    apply_defaults: StrictBool = True
    validate_first: StrictBool = True


class StopArguments(AccountArguments):
    timeout: _Timeout | None = None


class SelectionArguments(Arguments):
    """Which accounts a batch is for; none given: all."""

    group: _Label | Annotated[list[_Label], Field(max_length=1000)] | None = None
    labels: Annotated[dict[_Label, _Label], Field(max_length=100)] | None = None

    @property
    def selection(self) -> Selection:
        return Selection.of(self.group, self.labels)


class BatchStartArguments(SelectionArguments):
    apply_defaults: StrictBool = True
    validate_first: StrictBool = True


class BatchStopArguments(SelectionArguments):
    timeout: _Timeout | None = None


class AccountsArguments(Arguments):
    account_ids: Annotated[list[_AccountId], Field(max_length=100_000)]
