from __future__ import annotations

import copy
import pickle

import pytest

import celery_realtime
from celery_realtime.exceptions import ImproperlyConfigured, RealtimeError, SubscribeError


@pytest.mark.parametrize("error", [ImproperlyConfigured, SubscribeError])
def test_one_except_clause_catches_everything_that_we_raise_on_our_own_account(error: type[Exception]) -> None:
    with pytest.raises(RealtimeError, match="no"):
        raise error("no")


@pytest.mark.parametrize(
    "error", [RealtimeError("root"), ImproperlyConfigured("realtime_url: no"), SubscribeError("no")]
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_the_way_through_a_result_backend(error: Exception, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_a_refusal_keeps_its_code_over_pickle_and_copy() -> None:
    error = SubscribeError("not yours", "forbidden")
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(back), back.code) == ("not yours", "forbidden")


def test_a_refusal_without_a_code_is_a_bad_request() -> None:
    assert SubscribeError("what?").code == "bad_request"
    assert SubscribeError().code == "bad_request"


def test_a_configuration_error_is_no_refusal_of_a_browser() -> None:
    assert not issubclass(ImproperlyConfigured, SubscribeError)
    assert not issubclass(SubscribeError, ImproperlyConfigured)


def test_the_errors_are_where_users_look_for_them() -> None:
    for name in ("RealtimeError", "ImproperlyConfigured", "SubscribeError"):
        assert getattr(celery_realtime, name) is getattr(celery_realtime.exceptions, name)
        assert name in celery_realtime.__all__
