"""Models of request bodies, for the OpenAPI document."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from manager.placement.labels import Selection
from manager.pool.arguments import MAX_TIMEOUT


def _integral(value: object) -> object:
    """Convert `1.0` to `1`, as JSON Schema does; `true` is not converted."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


whole = BeforeValidator(_integral)
AccountId = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Group = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Label = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[A-Za-z0-9._:/@+-]{0,128})?$", max_length=200
    ),
]


def _required(*names: str) -> Callable[[dict[str, Any]], None]:
    """Document members as required that the routes check themselves.

    Their absence has its own status.
    """

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
    """A request body without unknown members or type conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StartBody(Strict):
    """Options of a start."""

    apply_defaults: Annotated[
        bool, Field(description="Fill missing keys of the account file from the defaults.")
    ] = True
    validate_first: Annotated[
        bool, Field(alias="validate", description="Refuse to start an invalid account.")
    ] = True


class StopBody(Strict):
    """Options of a stop."""

    timeout_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_TIMEOUT,
            description="Kill the worker after this time; null: the time in its account file.",
        ),
    ] = None


class NoOptions(Strict):
    """A command without options."""


class MoveBody(Strict):
    """The target of a move."""

    host: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    force: Annotated[
        bool,
        Field(
            description="Move without proof that the old worker ended: only if its host is permanently lost."
        ),
    ] = False


class SelectBody(Strict):
    """Selects accounts: by id, by groups and labels, or all.

    An account must be in one of `groups` and have all of `labels`. `state` narrows the selection further.
    """

    model_config = ConfigDict(json_schema_extra=_ways)

    accounts: Annotated[list[AccountId] | None, Field(min_length=1, max_length=10_000)] = None
    groups: Annotated[list[Group], Field(max_length=100)] = []
    labels: Annotated[list[Label], Field(max_length=100, description="`k` or `k=v`")] = []
    state: (
        Literal["created", "starting", "running", "stopping", "stopped", "failed", "restarting", "unknown"]
        | None
    ) = None
    all: Annotated[bool, Field(description="All accounts; required if no other member selects.")] = False

    @property
    def selection(self) -> Selection:
        """The selection by `groups` and `labels`; all if both are empty."""
        return Selection(tuple(self.groups), tuple(self.labels))


class BatchBody(Strict):
    """One command for many accounts; `validate` checks their files on the hosts that would run them."""

    model_config = ConfigDict(json_schema_extra=_required("expect"))

    do: Literal["start", "stop", "restart", "pause", "resume", "validate"]
    select: SelectBody
    expect: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="The number of selected accounts; if it differs, nothing is done."),
        whole,
    ] = None
    apply_defaults: bool = True
    validate_first: Annotated[bool, Field(alias="validate")] = True
    timeout_seconds: Annotated[float | None, Field(ge=0, le=MAX_TIMEOUT)] = None


class DrainBody(Strict):
    """Options of a drain, with its confirmation."""

    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None
    mode: Literal["move", "stop"] = "move"
    when_flat: bool = False
    deadline_seconds: Annotated[float | None, Field(gt=0, le=7 * 86_400)] = None


class ConfirmBody(Strict):
    """The confirmation of a command for a host."""

    model_config = ConfigDict(json_schema_extra=_required("confirm"))

    confirm: Annotated[str | None, Field(max_length=63, description="The host's name.")] = None


class RollbackBody(Strict):
    """The version to push again."""

    version: Annotated[int, Field(ge=1, le=10**9), whole]


class PushBody(Strict):
    """All account files of the fleet."""

    files: Annotated[
        dict[
            Annotated[
                str,
                StringConstraints(
                    pattern=r"^(defaults|schedules|accounts/[A-Za-z0-9][A-Za-z0-9._-]{0,63})\.yaml$"
                ),
            ],
            str,
        ],
        Field(
            min_length=1,
            max_length=10_000,
            description="`defaults.yaml`, `schedules.yaml` and `accounts/<account id>.yaml` → text.",
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
    """A token to create."""

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
