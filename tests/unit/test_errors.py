import inspect

import pytest

from manager import errors
from manager.errors import ManagerError

ALL = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, ManagerError)]


@pytest.mark.parametrize("error", ALL)
def test_an_error_is_rebuilt_from_its_arguments_as_celery_does(error: type[ManagerError]) -> None:
    before = error("what, where, what next")
    after = type(before)(*before.args)
    assert (str(after), after.code, after.retryable) == (
        "what, where, what next",
        error.code,
        error.retryable,
    )
    assert vars(after) == {}


def test_codes_are_distinct() -> None:
    assert len({error.code for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", [e for e in ALL if e is not ManagerError])
def test_every_error_is_what_the_contract_names(error: type[ManagerError]) -> None:
    assert issubclass(error, ValueError | RuntimeError)
    assert (error.__doc__ or "").startswith("Raised when")
