"""A run on a Dask cluster that starts its tasks in threads here: the children, the links and the results are real."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
from conftest import RunInReactor
from load_runs import ENROLL, QUICK, Onlooker, counts
from twisted.internet import reactor

from agent.errors import OperatorError
from agent.load.conductor.conductor import Conductor
from agent.load.control.listening import LOOPBACK
from agent.load.launch.dask import RESOURCE, DaskLauncher, own_address
from agent.scenario.reading import scenario_from

PLACE = "tcp://127.0.0.1:1"


class Task:
    """A future of Dask."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.status = "pending"
        self._error: Exception | None = None
        self._work = work
        self._done: list[Callable[[Task], None]] = []
        self._thread = Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
            self.status = "finished"
        except RuntimeError as error:
            self._error, self.status = error, "error"
        for done in self._done:
            done(self)

    def exception(self) -> Exception | None:
        return self._error

    def add_done_callback(self, done: Callable[[Task], None]) -> None:
        self._done.append(done)
        self._thread.start()


class Cluster:
    """A scheduler and its worker: everything that would go through it is in ``seen``."""

    def __init__(self, slots: int, runs: int = 1) -> None:
        self.seen: list[Any] = []
        self.submitted: list[dict[str, Any]] = []
        self._slots = slots
        self._runs = runs
        self._handler: Callable[[Any], None] = lambda _event: None
        module: Any = ModuleType("distributed")
        module.Client = lambda *_arguments, **_named: self
        module.get_worker = lambda: self
        self.module: ModuleType = module

    def scheduler_info(self) -> Any:
        return {"workers": {PLACE: {"nthreads": self._slots, "resources": {RESOURCE: float(self._slots)}}}}

    def subscribe_topic(self, _topic: str, handler: Callable[[Any], None]) -> None:
        self._handler = handler

    def log_event(self, topic: str, message: Any) -> None:
        self.seen.append([topic, message])
        self._handler((0.0, "nonsense"))
        self._handler((0.0, message))

    def submit(self, function: Callable[..., None], *arguments: Any, **named: Any) -> Task:
        self.seen.append([arguments, named])
        self.submitted.append(named)
        for _ in range(self._runs - 1):
            Task(lambda: function(*arguments)).start()
        return Task(lambda: function(*arguments))

    def close(self, _seconds: float) -> None:
        self.submitted.append({"closed": True})


def conductor_on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, workers: int) -> Conductor:
    monkeypatch.setitem(sys.modules, "distributed", cluster.module)
    scenario = scenario_from(
        {"fleet": {"devices": 4 * workers, "segment_size": 4, **QUICK}, "load": {"tail": 5.0}, "phase": [ENROLL]}
    )
    launcher = DaskLauncher(reactor, "tcp://127.0.0.1:8786", 100.0)
    return Conductor(reactor, scenario, launcher, workers, Onlooker(), listen=LOOPBACK)


def test_task_that_dask_starts_twice_enrolls_its_macs_once(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(slots=1, runs=2)
    conductor = conductor_on(cluster, monkeypatch, 1)
    run_in_reactor(conductor.run())
    assert conductor.incomplete_because is None
    assert counts(conductor.metrics())["enroll"] == 4
    named, closed = cluster.submitted
    key = named.pop("key")
    assert named == {
        "workers": [PLACE],
        "allow_other_workers": False,
        "resources": {RESOURCE: 1},
        "pure": False,
        "retries": 0,
    }
    assert closed == {"closed": True}
    assert key.endswith("-0")
    arguments = cluster.seen[0][0][0]
    assert sorted(arguments) == ["address", "ca", "run", "shard"]
    assert sorted(cluster.seen[1][1]) == ["digest", "shard"]
    assert "PRIVATE KEY" not in json.dumps(cluster.seen, default=str)


def test_too_few_slots_end_the_run_before_it_starts(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(slots=1)
    conductor = conductor_on(cluster, monkeypatch, 2)

    async def scenario() -> None:
        with pytest.raises(OperatorError, match="slots for 2 workers, found 1 on 1 Dask workers"):
            await conductor.run()

    run_in_reactor(scenario())
    assert cluster.submitted == [{"closed": True}]


@pytest.mark.parametrize("scheduler", ["", "tls://", "scheduler", "tls://127.0.0.1:x", "tls://127.0.0.1:99999999"])
def test_scheduler_without_an_address_is_the_operators_error(scheduler: str) -> None:
    with pytest.raises(OperatorError, match=r"Expected dask=SCHEDULER .* found '.*': it has no valid port"):
        own_address(scheduler)


def test_own_address_is_that_of_the_way_to_the_scheduler() -> None:
    assert own_address("tls://127.0.0.1:8786") == "127.0.0.1"
