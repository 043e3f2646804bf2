from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.jobs.configuration import Configuration
from tests.recording import new_app


def test_what_is_set_by_now_is_checked_without_loading_the_configuration() -> None:
    app = new_app()
    app.conf.realtime_wire = "smoke"
    with pytest.raises(ImproperlyConfigured, match="realtime_wire"):
        Configuration({}).check(app)
    assert not app.configured


def test_a_keyword_may_be_replaced_and_comes_back() -> None:
    app, configuration = new_app(), Configuration({"channel": "given", "wire": "stock"})
    configuration.replace({"channel": "other"})
    assert (configuration.read(app).channel, configuration.read(app).wire) == ("other", "stock")
    configuration.replace({})
    assert configuration.read(app).channel == "given"


@pytest.mark.parametrize("name", ["chanel", "realtime_channel"])  # codespell:ignore
def test_an_unknown_name_is_refused_wherever_it_comes_from(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"unknown setting {name}"):
        Configuration({name: "x"})
    with pytest.raises(ImproperlyConfigured, match=f"unknown setting {name}"):
        Configuration({}).replace({name: "x"})


def test_on_a_broker_of_ones_own_celerys_broker_may_be_anything() -> None:
    app = new_app(broker="nonsense://host")
    configuration = Configuration({"url": "redis://host:1/0"})
    configuration.check(app)
    assert configuration.read(app).url == "redis://host:1/0"
    for read in (Configuration({}).check, Configuration({}).read):
        with pytest.raises(ImproperlyConfigured, match="is not a broker URL"):
            read(app)


def test_celerys_options_are_completed_and_not_changed() -> None:
    app = new_app(broker="redis://localhost:1/0")
    celerys: dict[str, Any] = {"visibility_timeout": 60}
    app.conf.broker_transport_options = celerys
    settings = Configuration({"connection_options": {"transport_options": {"max_retries": 1}}}).read(app)
    assert settings.connection_options["transport_options"] == {"visibility_timeout": 60, "max_retries": 1}
    assert celerys == {"visibility_timeout": 60}
