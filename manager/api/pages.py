"""Pagination by key, which stays correct while the list changes."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request

from manager.api.problems import ProblemError
from manager.api.rendering import decimal_of
from manager.telemetry.attention import Severity, worst
from manager.telemetry.fleet_reader import AccountRow, FleetListing

T = TypeVar("T")
#: A sort key: the sorted value, then the id that makes it unique.
Key = tuple[Any, str]

Sort = Literal[
    "account_id",
    "-account_id",
    "attention",
    "equity",
    "-equity",
    "state",
    "-state",
    "started_at",
    "-started_at",
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PageQuery(BaseModel):
    """Query parameters of a page."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000, description="Maximum number of items.")] = 100
    after: Annotated[
        str | None, Field(max_length=500, description="The `next` of the previous page; opaque.")
    ] = None


class AccountQuery(PageQuery):
    """Query parameters of a list of accounts."""

    sort: Annotated[Sort, Field(description="A leading `-` sorts in descending order.")] = "account_id"
    state: Annotated[
        Literal[
            "created", "starting", "running", "stopping", "stopped", "failed", "restarting", "unknown", "none"
        ]
        | None,
        Field(description="Status of the worker; `none`: the account never had one."),
    ] = None
    health: Literal["healthy", "degraded", "unhealthy", "unknown"] | None = None
    want: Literal["running", "stopped"] | None = None
    host: Text | None = None
    group: Annotated[list[Text], Field(max_length=100, description="In any of these groups.")] = []
    label: Annotated[list[Text], Field(max_length=100, description="With all of these: `k` or `k=v`.")] = []
    attention: Annotated[
        Literal["critical", "warning", "info"] | None,
        Field(description="With an attention item of this severity."),
    ] = None
    q: Annotated[Text | None, Field(description="Part of the account id; case does not matter.")] = None

    @property
    def filters(self) -> bool:
        """Whether the query selects fewer accounts than all."""
        return any(getattr(self, name) for name in _FILTERS)


_FILTERS: Final = ("state", "health", "want", "host", "group", "label", "attention", "q")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of a page, and the cursor of the next one (None: no more)."""

    items: Sequence[T]
    next: str | None
    total: int


def page(
    items: Sequence[T],
    key: Callable[[T], Key],
    query: PageQuery,
    *,
    descending: bool = False,
    order: str = "",
) -> Page[T]:
    """Return the page of sorted items that a query selects.

    Raises ProblemError if `after` is not a cursor of this list in this sort order.
    """
    start = 0
    if query.after is not None:
        after = _read_cursor(query.after, order)
        low, high = 0, len(items)
        while low < high:
            middle = (low + high) // 2
            found = key(items[middle])
            beyond = _below(found, after) if descending else _below(after, found)
            low, high = (low, middle) if beyond else (middle + 1, high)
        start = low
    chosen = items[start : start + query.limit]
    more = start + len(chosen) < len(items)
    following = _cursor(key(chosen[-1]), order) if more and chosen else None
    return Page(chosen, following, len(items))


def _below(one: Key, other: Key) -> bool:
    try:
        return one < other
    except TypeError:
        raise _wrong_cursor() from None


def accounts_page(
    state: FleetListing, query: AccountQuery, readable: Callable[[AccountRow], bool] | None
) -> Page[AccountRow]:
    """Return the page of readable accounts that a query selects.

    `readable` is None if all accounts may be read.
    """
    by, descending = query.sort.removeprefix("-"), query.sort.startswith("-")
    key = partial(_KEYS[by], state)
    ordered = state.sorted.get(query.sort)
    if ordered is None:
        ordered = list(state.accounts.values())
        if query.sort != "account_id":
            ordered.sort(key=key, reverse=descending)
        state.sorted[query.sort] = ordered
    chosen = ordered
    if readable is not None or query.filters:
        chosen = [one for one in ordered if (readable is None or readable(one)) and _taken(state, one, query)]
    return page(chosen, key, query, descending=descending, order=query.sort)


def _taken(listing: FleetListing, account: AccountRow, query: AccountQuery) -> bool:
    if query.state is not None and (account.status or "none") != query.state:
        return False
    if query.health is not None and account.health != query.health:
        return False
    if query.want is not None and account.want != query.want:
        return False
    if query.host is not None and account.host != query.host:
        return False
    if query.q is not None and query.q.casefold() not in account.account_id.casefold():
        return False
    if query.group and not set(query.group) & set(account.groups):
        return False
    if not all(_labelled(account, label) for label in query.label):
        return False
    return query.attention is None or any(
        one.severity == query.attention for one in listing.attention(account)
    )


def _labelled(account: AccountRow, label: str) -> bool:
    name, equals, value = label.partition("=")
    return name in account.labels and (not equals or account.labels[name] == value)


def _equity(_listing: FleetListing, account: AccountRow) -> Key:
    found = None if account.worker is None else decimal_of(account.worker.metadata.get("equity"))
    return (float("-inf") if found is None else float(found), account.account_id)


def _started(_listing: FleetListing, account: AccountRow) -> Key:
    at = None if account.worker is None else account.worker.started_at
    return (0.0 if at is None else at.timestamp(), account.account_id)


def _urgency(listing: FleetListing, account: AccountRow) -> Key:
    severity = worst(listing.attention(account))
    return (len(Severity) if severity is None else list(Severity).index(severity), account.account_id)


_KEYS: Final[dict[str, Callable[[FleetListing, AccountRow], Key]]] = {
    "account_id": lambda _, account: ("", account.account_id),
    "state": lambda _, account: (account.status or "", account.account_id),
    "attention": _urgency,
    "equity": _equity,
    "started_at": _started,
}


def next_link(request: Request, following: str | None) -> dict[str, str]:
    """Return the Link header to the next page."""
    if following is None:
        return {}
    query = [(key, value) for key, value in request.query_params.multi_items() if key != "after"]
    return {"Link": f'<{request.url.path}?{urlencode([*query, ("after", following)])}>; rel="next"'}


def _cursor(key: Key, order: str) -> str:
    value = None if key[0] == float("-inf") else key[0]
    return base64.urlsafe_b64encode(json.dumps([order, value, key[1]]).encode()).decode().rstrip("=")


def _read_cursor(text: str, order: str) -> Key:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = json.loads(raw)
    except (ValueError, binascii.Error, RecursionError):
        raise _wrong_cursor() from None
    if not (isinstance(found, list) and len(found) == 3 and isinstance(found[2], str)):
        raise _wrong_cursor()
    if found[0] != order or isinstance(found[1], bool | list | dict):
        raise _wrong_cursor()
    return (float("-inf") if found[1] is None else found[1], found[2])


def _wrong_cursor() -> ProblemError:
    return ProblemError(
        "not_found", "there is no such page: `after` is not the `next` of a page of this list in this order"
    )
