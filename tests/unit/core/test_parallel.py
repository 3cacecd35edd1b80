from __future__ import annotations

import os
import socket
import sys

import pytest
import threadpoolctl

from fixtures import ray_work
from tasador.core import ray_engine
from tasador.core.errors import EngineError, MissingExtraError, TrainingError
from tasador.core.parallel import Engine, LocalEngine, RaySettings, one_blas_thread
from tasador.core.ray_engine import RayEngine, open_engine, open_ray


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "local":
        return LocalEngine()
    request.getfixturevalue("ray_cluster")
    return RayEngine(retries=2)


def test_every_item_comes_back_once_with_its_position(engine: Engine) -> None:
    held = engine.share(100)
    found = dict(engine.map(ray_work.add, held, range(20), cost=float))
    assert found == {i: 100 + i for i in range(20)}
    assert dict(engine.map(ray_work.add, held, [])) == {}
    assert engine.slots >= 1


def test_the_works_own_error_comes_back_as_it_was_raised(engine: Engine) -> None:
    with pytest.raises(TrainingError, match="no good: got 1") as caught:
        dict(engine.map(ray_work.refuse, engine.share("no good"), [1]))
    assert caught.value.got == "1"


def test_what_work_warns_of_is_warned_of_here(engine: Engine) -> None:
    with pytest.warns(UserWarning, match="look at 7"):
        assert dict(engine.map(ray_work.warn, engine.share("look at"), [7])) == {0: 7}


def test_the_objects_of_a_stand_are_asked_again_and_again(engine: Engine) -> None:
    with engine.actors(ray_work.Counter, engine.share(10), [1, 2, 3]) as actors:
        assert actors.call(5) == [(1, 16), (1, 17), (1, 18)]
        assert actors.call(6) == [(2, 17), (2, 18), (2, 19)]
        with pytest.raises(TrainingError, match="11 takes no -1"):  # the first one's
            actors.call(-1)


@pytest.mark.slow
def test_work_whose_process_dies_is_retried_and_not_for_ever(ray_cluster, tmp_path) -> None:
    engine = RayEngine(retries=2)
    for number in range(2):
        (tmp_path / f"3-{number}").touch()
    held = engine.share(tmp_path)
    assert dict(engine.map(ray_work.die, held, range(5))) == {i: i for i in range(5)}
    assert not list(tmp_path.iterdir())
    for number in range(4):
        (tmp_path / f"3-{number}").touch()
    with pytest.raises(EngineError, match="the Ray cluster lost the work"):
        dict(engine.map(ray_work.die, held, range(5)))


@pytest.mark.slow
def test_an_object_whose_process_is_killed_is_made_again(ray_cluster) -> None:
    engine = RayEngine(retries=2)
    with engine.actors(ray_work.Counter, engine.share(10), [1, 2]) as actors:
        assert [total for _, total in actors.call(5)] == [16, 17]
        killed = ray_cluster.workers("ray::_Actor")
        os.kill(killed[0], 9)
        answers = actors.call(5)
    assert [total for _, total in answers] == [16, 17]
    assert sorted(asked for asked, _ in answers) == [1, 2]  # one of them has forgotten


@pytest.mark.slow
def test_who_stops_listening_is_not_kept_waiting(ray_cluster) -> None:
    engine = RayEngine(retries=0)
    some = engine.map(ray_work.sleep, engine.share(60.0), range(4))
    some.close()  # nothing was begun
    at_once = engine.share(0.0)
    for _ in range(100):  # what ends while it is being left must not take this process with it
        found = engine.map(ray_work.sleep, at_once, range(50))
        next(found)
        found.close()
    assert len(dict(engine.map(ray_work.sleep, engine.share(0.0), range(4)))) == 4


@pytest.mark.slow
def test_a_machine_with_other_packages_is_named(ray_cluster, monkeypatch) -> None:
    other = {**ray_engine.own_versions(), "numpy": "1.0"}
    monkeypatch.setattr(ray_engine, "own_versions", lambda: other)
    with pytest.raises(EngineError, match=r"has other packages .* expected numpy 1\.0, got numpy"):
        dict(RayEngine(retries=0).map(ray_work.add, RayEngine(0).share(1), [1]))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingExtraError, match=r"not installed.*dist"),
        open_engine("ray", RaySettings()),
    ):
        pass


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_said_at_once(form: str, monkeypatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = form.format(unused.getsockname()[1])
        with (
            pytest.raises(EngineError, match="no Ray cluster answers at"),
            open_ray(RaySettings(address)),
        ):
            pass


def blas_threads() -> set[int]:
    found = threadpoolctl.threadpool_info()
    return {one["num_threads"] for one in found if one["user_api"] == "blas"}


def test_limits_that_are_left_in_another_order_leave_one_thread_of_linear_algebra() -> None:
    with one_blas_thread():
        assert blas_threads() == {1}
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert blas_threads() == {1}
