"""Models of the messages that stream clients send.

They are strict: the answer to a wrong message names the wrong member.
"""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
SubscriptionId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
#: Maximum number of accounts whose figures a client may request by name.
MAX_VISIBLE = 200


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Select(_Strict):
    """Which accounts; empty members select all."""

    accounts: Annotated[list[Name] | None, Field(max_length=10_000)] = None
    groups: Annotated[list[Name], Field(max_length=100)] = []
    labels: Annotated[list[Name], Field(max_length=100, description="`k` or `k=v`")] = []
    types: Annotated[list[Name], Field(max_length=100, description="Event types, `worker.*`.")] = []


class FigureOptions(_Strict):
    """The accounts whose figures are sent, and the maximum rate."""

    of: Literal["visible", "all", "none"] = "none"
    accounts: Annotated[list[Name], Field(max_length=MAX_VISIBLE)] = []
    every_ms: Annotated[int, Field(ge=250, le=60_000)] = 1000


class Subscribe(_Strict):
    op: Literal["subscribe"]
    id: SubscriptionId
    topic: Annotated[str, StringConstraints(pattern=r"^(accounts|events|hosts|batch:[A-Za-z0-9-]{1,64})$")]
    select: Select = Select()
    after: Annotated[str | None, Field(max_length=60, description="A cursor; events after it are sent.")] = (
        None
    )
    figures: FigureOptions = FigureOptions()


class Visible(_Strict):
    op: Literal["visible"]
    id: SubscriptionId
    accounts: Annotated[list[Name], Field(max_length=MAX_VISIBLE)]


class Unsubscribe(_Strict):
    op: Literal["unsubscribe"]
    id: SubscriptionId


class Ping(_Strict):
    op: Literal["ping"]
    n: Annotated[int, Field(ge=0, le=2**53)]


Message = Annotated[Subscribe | Visible | Unsubscribe | Ping, Field(discriminator="op")]
MESSAGES: TypeAdapter[Subscribe | Visible | Unsubscribe | Ping] = TypeAdapter(Message)


def subscription_id(text: str) -> str | None:
    """Return the subscription that a wrong message names; None if it names none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    named = found.get("id") if isinstance(found, dict) else None
    return named[:64] if isinstance(named, str) else None
