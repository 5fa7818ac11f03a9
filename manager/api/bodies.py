"""What the bodies of requests carry, as the OpenAPI document describes it."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from manager.placement.labels import Selection
from manager.pool.arguments import MAX_TIMEOUT


def _integral(value: object) -> object:
    """Take `1.0` for `1`, as JSON Schema does; `true` stays what it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_INTEGRAL = BeforeValidator(_integral)
AccountId = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Group = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Label = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[A-Za-z0-9._:/@+-]{0,128})?$", max_length=200
    ),
]


def _required(*names: str) -> Callable[[dict[str, Any]], None]:
    """Document members as required that routes check, because their absence has its own status."""

    def change(schema: dict[str, Any]) -> None:
        schema["required"] = sorted({*schema.get("required", ()), *names})
        for name in names:
            _without_null(schema["properties"][name])

    return change


def _one_of(*names: str) -> Callable[[dict[str, Any]], None]:
    """Document that exactly one of the members is given."""

    def change(schema: dict[str, Any]) -> None:
        schema["oneOf"] = [{"required": [name]} for name in names]
        for name in names:
            _without_null(schema["properties"][name])

    return change


def _ways(schema: dict[str, Any]) -> None:
    """Document that accounts are selected in exactly one way."""
    properties = schema["properties"]
    _without_null(properties["accounts"])
    for name in ("groups", "labels"):
        properties[name]["minItems"] = 1
        properties[name].pop("default", None)
    properties["all"] = {"const": True, "type": "boolean", "description": properties["all"]["description"]}
    given = {name: {"required": [name]} for name in ("accounts", "all", "groups", "labels")}
    grouped = {"anyOf": [given["groups"], given["labels"]]}
    schema["oneOf"] = [
        {**given["accounts"], "not": {"anyOf": [given["all"], grouped]}},
        {**given["all"], "not": {"anyOf": [given["accounts"], grouped]}},
        {**grouped, "not": {"anyOf": [given["accounts"], given["all"]]}},
    ]


def _without_null(schema: dict[str, Any]) -> None:
    schema |= next(one for one in schema.pop("anyOf") if one.get("type") != "null")
    schema.pop("default", None)


class Strict(BaseModel):
    """A request's body: no unknown members, and no conversion of types (`false` is not a number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StartBody(Strict):
    apply_defaults: Annotated[bool, Field(description="Fill what the file leaves out from the defaults.")] = (
        True
    )
    validate_first: Annotated[
        bool, Field(alias="validate", description="Refuse to start an invalid account.")
    ] = True


class StopBody(Strict):
    timeout_seconds: Annotated[
        float | None,
        Field(ge=0, le=MAX_TIMEOUT, description="Stop by force after so long; null: the account's own time."),
    ] = None


class NoOptions(Strict):
    """A command without options."""


class MoveBody(Strict):
    host: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    force: Annotated[
        bool,
        Field(description="The account's host is lost for good: move without proof that its worker ended."),
    ] = False


class SelectBody(Strict):
    """Accounts by name, or by any of the groups and all of the labels. `state` narrows either."""

    model_config = ConfigDict(json_schema_extra=_ways)

    accounts: Annotated[list[AccountId] | None, Field(min_length=1, max_length=10_000)] = None
    groups: Annotated[list[Group], Field(max_length=100)] = []
    labels: Annotated[list[Label], Field(max_length=100, description="`k` or `k=v`")] = []
    state: (
        Literal["created", "starting", "running", "stopping", "stopped", "failed", "restarting", "unknown"]
        | None
    ) = None
    all: Annotated[bool, Field(description="Every account; needed where nothing else is given.")] = False

    @property
    def selection(self) -> Selection:
        """What `groups` and `labels` take; everything without any."""
        return Selection(tuple(self.groups), tuple(self.labels))


class BatchBody(Strict):
    """One command for many accounts."""

    model_config = ConfigDict(json_schema_extra=_required("expect"))

    do: Literal["start", "stop", "restart", "pause", "resume"]
    select: SelectBody
    expect: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="How many accounts are selected; otherwise nothing is done."),
        _INTEGRAL,
    ] = None
    apply_defaults: bool = True
    validate_first: Annotated[bool, Field(alias="validate")] = True
    timeout_seconds: Annotated[float | None, Field(ge=0, le=MAX_TIMEOUT)] = None


class DrainBody(Strict):
    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None
    mode: Literal["move", "stop"] = "move"
    when_flat: bool = False
    deadline_seconds: Annotated[float | None, Field(gt=0, le=7 * 86_400)] = None


class ConfirmBody(Strict):
    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None


class RollbackBody(Strict):
    version: Annotated[int, Field(ge=1, le=10**9), _INTEGRAL]


class PushBody(Strict):
    """All account files of the fleet."""

    files: Annotated[
        dict[
            Annotated[
                str, StringConstraints(pattern=r"^(defaults|accounts/[A-Za-z0-9][A-Za-z0-9._-]{0,63})\.yaml$")
            ],
            str,
        ],
        Field(
            min_length=1,
            max_length=10_000,
            description="`defaults.yaml` and `accounts/<account id>.yaml` → text.",
        ),
    ]
    message: Annotated[str, Field(max_length=1000, description="The reason, for the history.")] = ""
    allow_invalid: Annotated[
        bool, Field(description="Also push invalid accounts, which cannot be started.")
    ] = False
    allow_literals: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"\S")] | None,
        Field(description="Also push values that look like secrets, for this reason, which the trail keeps."),
    ] = None


class LoginBody(Strict):
    """A one-time code, or a token."""

    model_config = ConfigDict(json_schema_extra=_one_of("code", "token"))

    code: Annotated[str | None, Field(max_length=100)] = None
    token: Annotated[str | None, Field(max_length=100)] = None


class TokenBody(Strict):
    name: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    scopes: Annotated[
        list[Literal["read", "metrics", "operate", "configure", "kill", "admin"]],
        Field(min_length=1, max_length=6),
    ]
    groups: Annotated[list[Group], Field(max_length=100)] = []
    labels: Annotated[list[Label], Field(max_length=100)] = []
    read_selection: bool = False
    logs: bool = True
    expires_seconds: Annotated[float | None, Field(gt=0, le=10 * 365 * 86_400)] = 90 * 86_400.0
