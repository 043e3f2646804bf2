"""Real servers, workers and clients for the tests that need them."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery._state import _set_task_join_will_block, task_join_will_block
from hypothesis import settings

from celery_realtime.history import connection
from celery_realtime.instances import instances
from tests import wire
from tests.client_recorder import Recorder
from tests.event_reader import Checks
from tests.launcher import Brokers, Launcher
from tests.processes import ManagedProcess, WebServer, Worker
from tests.programs import require
from tests.services import BROKERS, Broker, RabbitMQServer, RedisServer
from tests.shared_rabbitmq import Address, SharedRabbitMQ, SharedServer
from tests.tools import try_again

HERE = Path(__file__).parent
#: What starts processes. Each test that uses one of them, by whatever way, is marked as one that needs a service.
SERVICES = {
    *("redis_server", "results_server", "rabbitmq_server", "own_rabbitmq_server"),
    *("brokers", "launcher", "module_launcher", "deaths"),
}
#: What the main process of a run offers to all others.
SHARED = pytest.StashKey[SharedServer]()
#: The files whose tests take longest together, longest first. Processes of tests take file by file in this order, so
#: that none of them is left with a long one when the others have nothing more to do.
LONG_FILES = [
    "integration/test_slow_clients",
    "integration/test_leases",
    "browser/test_connection",
    "browser/test_example_page",
    "integration/test_cli",
    "web/test_open_connections",
    "browser/test_elements",
    "browser/test_frameworks",
    "integration/test_handed_on",
    "integration/test_reconciling",
    "integration/test_child_turnover",
    "integration/test_cli_streams",
    "browser/test_quickstart",
    "integration/test_hosts",
    "fuzz/test_isolation",
    "integration/test_outages",
    "integration/test_demo",
    "deploy/test_compose",
    "client/test_job_followers",
    "browser/test_ai_recipes",
    "web/test_housekeeping",
    "web/test_dropped_servers",
    "browser/test_element_crowds",
    "channel/test_broker_outages",
    "web/test_pings",
    "integration/test_http_hosts",
    "integration/test_green",
    "integration/test_cancel",
    "web/test_refusals",
    "upgrades/test_side_by_side",
    "integration/test_isolation",
    "integration/test_farewell",
    "channel/test_kombu_manager",
    "integration/test_cancel_namesakes",
    "client/test_package",
    "fuzz/test_subscribe_handlers",
    "cli/bench/test_bench",
    "deaths/test_sample",
    "client/test_browser_token",
    "web/test_slow_clients",
    "sending/test_green_lease",
    "integration/test_wire",
    "metrics/test_prometheus",
    "integration/test_tls",
    "integration/test_shutdowns",
    "fuzz/test_job_lives",
    "deploy/test_systemd",
    "contrib/test_django_site",
    "integration/test_top",
    "integration/test_mirrored_progress",
    "integration/test_shared_ids",
    "web/test_http",
    "integration/test_browser_client",
    "deploy/test_kubernetes",
    "integration/test_infrastructure",
    "browser/test_plain_http",
    "integration/test_lost_steps",
]
#: Folders with tests that take seconds each: before all others.
SLOW = ("browser", "deaths", "integration")
#: Celery obeys these before an app's own settings; only the tests' children shall have them.
OVERRIDING = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")


# A busy machine is slow, and chance has tried more by the next run.
settings.register_profile("tests", deadline=None, max_examples=60)
settings.load_profile("tests")

# For which a history waits for Redis; a busy machine may keep it from an answer for more than a second.
connection.TIMEOUT = 10.0

# Whose assertions are to say what they have seen, as those of tests do.
pytest.register_assert_rewrite("tests.integration.scenario")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[SHARED] = SharedServer()
    for name in OVERRIDING:
        os.environ.pop(name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Say where the shared server is to be had, to a process of pytest-xdist."""
    node.workerinput["shared_rabbitmq"] = tuple(node.config.stash[SHARED].address)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let this process end at once: nobody waits for what its tests have not sent."""
    if shared := config.stash.get(SHARED, None):
        shared.end()
    for realtime in instances:
        realtime.manager.start_over()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        folder = _folder(item.path.parent)
        if folder in ("browser", "integration"):
            item.add_marker(folder)
        if _needs_service(item):
            item.add_marker("service")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Any:
    """Leave what tests are made of out of garbage collections: they take a third of a collection of tests, else."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # what is garbage by now, too: to look for it takes a tenth of the collection of tests
        gc.enable()


def _turn(item: pytest.Item) -> tuple[int, bool]:
    """Return when it is a test's turn: a lower one comes first."""
    return _place(item.path), _folder(item.path.parent) not in SLOW


@functools.cache
def _place(path: Path) -> int:
    name = path.relative_to(HERE).with_suffix("").as_posix()
    return LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES)


@pytest.fixture(autouse=True)
def _worker() -> Iterator[None]:
    """Undo what a worker in the process of a test does to the root logger, and to those that wait for results.

    The level of the one hides the lines of later tests; the others may not wait in a process with a pool.
    """
    root, may_not_wait = logging.getLogger(), task_join_will_block()
    level, handlers = root.level, [*root.handlers]
    yield
    _set_task_join_will_block(may_not_wait)
    root.setLevel(level)
    for handler in root.handlers[:]:
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


Recorder.check_event = staticmethod(wire.note_event)
Recorder.check_answer = staticmethod(wire.note_answer)
Checks.event = staticmethod(wire.note_event)
Checks.reply = staticmethod(wire.note_reply)


@pytest.fixture(autouse=True)
def _described(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose clients were sent what ``docs/asyncapi.yaml`` does not describe."""
    wire.travelled.clear()
    yield
    if request.node.get_closest_marker("undescribed") is None:
        violations = wire.violations()
        assert not violations, "\n".join(violations[:10])


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    """Fail where a file leaves its brokers and backends to the files that come after it in this process."""
    yield
    left = [name for name in OVERRIDING if os.environ.pop(name, None) is not None]
    assert not left, "what has set these has to take them back"


@functools.cache
def _folder(path: Path) -> str:
    """Return the name of the folder of tests that a path is in."""
    return path.relative_to(HERE).parts[0] if path != HERE else ""


def _needs_service(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("browser", "integration"))
    return marked or bool(SERVICES & {*getattr(item, "fixturenames", ())})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Note what failed in this run."""
    cache = getattr(config, "cache", None)  # there is none with -p no:cacheprovider
    if cache is not None:
        failed = [report.nodeid for kind in ("failed", "error") for report in terminalreporter.getreports(kind)]
        cache.set(try_again.NOTE, sorted({*failed}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.failed:
        for process in _processes(getattr(item, "funcargs", {}).values()):
            report.sections.append((f"log of {process.name}", process.log_tail))
    return report


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis that brokers are made on."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def results_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis for results and history: it lives on when a broker dies."""
    server = RedisServer(tmp_path_factory.mktemp("results"), name="results").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shared_rabbitmq_address(pytestconfig: pytest.Config) -> Address:
    """Where the main process of the run is asked for its RabbitMQ."""
    given = getattr(pytestconfig, "workerinput", {}).get("shared_rabbitmq")
    return Address(*given) if given else pytestconfig.stash[SHARED].address


@pytest.fixture(scope="session")
def rabbitmq_server(shared_rabbitmq_address: Address, tmp_path_factory: pytest.TempPathFactory) -> RabbitMQServer:
    """The RabbitMQ that brokers are made on: one for all processes of a run, so it refuses whatever disturbs others."""
    for program in ("epmd", "rabbitmq"):
        require(program)
    return SharedRabbitMQ(shared_rabbitmq_address, tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="session")
def own_rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    """A RabbitMQ of this process alone, to be stopped, paused, blocked. Few files have such tests: it takes seconds."""
    server = RabbitMQServer(tmp_path_factory.mktemp("own-rabbitmq")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def brokers(request: pytest.FixtureRequest) -> Brokers:
    """Make any number of brokers: ``brokers.make("redis")``."""
    return Brokers(request.getfixturevalue)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, brokers: Brokers) -> Broker:
    """A broker for one test, of each kind in turn. What the test does to its server is undone for the next.

    A test that disturbs the server is marked with ``own_rabbitmq``.
    """
    own = request.param == "rabbitmq" and request.node.get_closest_marker("own_rabbitmq")
    return brokers.make("own_rabbitmq" if own else request.param)


@pytest.fixture(params=BROKERS, scope="module")
def module_broker(request: pytest.FixtureRequest, brokers: Brokers) -> Broker:
    """A broker for all tests of a module, of each kind in turn."""
    return brokers.make(request.param)


@pytest.fixture
def redis_broker(brokers: Brokers) -> Broker:
    return brokers.make("redis")


@pytest.fixture
def rabbitmq_broker(brokers: Brokers) -> Broker:
    return brokers.make("rabbitmq")


@pytest.fixture
def own_rabbitmq_broker(brokers: Brokers) -> Broker:
    """A broker on a RabbitMQ that the test may disturb."""
    return brokers.make("own_rabbitmq")


@pytest.fixture
def redis_url(results_server: RedisServer) -> str:
    """The address of an empty Redis database."""
    results_server.ensure_running()
    return results_server.fresh_url()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """Starts what a test needs, and ends it after the test."""
    with Launcher(tmp_path) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def module_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts what the tests of a module share, and ends it after the last."""
    with Launcher(tmp_path_factory.mktemp("module")) as launcher:
        yield launcher


@pytest.fixture
def start_worker(launcher: Launcher) -> Callable[..., Worker]:
    return launcher.worker


@pytest.fixture
def start_web(launcher: Launcher) -> Callable[..., WebServer]:
    return launcher.web


@pytest.fixture
def start_redis(launcher: Launcher) -> Callable[..., RedisServer]:
    return launcher.redis


@pytest.fixture
def connect(launcher: Launcher) -> Callable[..., Recorder]:
    return launcher.connect


def _processes(fixtures: Any) -> Iterator[ManagedProcess]:
    for fixture in fixtures:
        if isinstance(fixture, Broker):
            yield fixture.server
        else:  # a launcher, or what has one
            yield from getattr(fixture, "processes", ())
