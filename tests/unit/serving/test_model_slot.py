"""The slot of the model that serves, and warming a bundle up."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from tasador.core.errors import BundleError, ConfigError
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.serving.model_slot import (
    IncompatibleError,
    LoadedModel,
    ModelSlot,
    warm_up,
    warm_up_explanations,
)


def loaded(folder, source="local", **changes) -> LoadedModel:
    bundle = load_bundle(folder, check_golden=False)
    if "contract" in changes:
        bundle = replace(bundle, contract=changes["contract"])
    return LoadedModel(bundle, source, str(folder), 0.0)


@pytest.fixture
def old(real_bundle) -> LoadedModel:
    return loaded(real_bundle)


@pytest.fixture
def new(newer_bundle) -> LoadedModel:
    return loaded(newer_bundle)


@pytest.fixture
def slot(old) -> ModelSlot:
    slot = ModelSlot()
    assert slot.swap(old) is None
    return slot


def test_the_model_before_is_kept(slot, old, new):
    assert slot.swap(new) is old
    assert (slot.current, slot.previous) == (new, old)


def test_a_rollback_bars_the_version_left_and_a_second_one_undoes_it(slot, old, new):
    slot.swap(new)
    assert slot.rollback() is old
    assert (slot.current, slot.previous, slot.barred) == (old, new, {new.version})
    assert slot.rollback() is new
    assert (slot.current, slot.barred) == (new, {old.version})
    slot.unpin()
    assert slot.barred == frozenset()


def test_there_is_nothing_to_go_back_to_at_first(slot):
    with pytest.raises(ConfigError, match="no previous model"):
        slot.rollback()
    with pytest.raises(ConfigError, match="no previous model"):
        ModelSlot().rollback()


def test_a_pinned_version_stays(slot, old, new):
    slot.swap(new)
    assert slot.pin(old.version) is old
    with pytest.raises(ConfigError, match=f"{old.version} is pinned"):
        slot.swap(new)
    with pytest.raises(ConfigError, match=f"{old.version} is pinned"):
        slot.rollback()
    assert slot.pin(old.version) is old
    slot.unpin()
    slot.swap(new)
    assert slot.current is new


def test_only_a_version_in_memory_can_be_pinned(slot, old):
    with pytest.raises(ConfigError, match=rf"'other' is not in memory.*one of {old.version}"):
        slot.pin("other")
    with pytest.raises(ConfigError, match="a model to be loaded"):
        ModelSlot().pin("other")
    assert slot.pinned is None


def test_a_synthetic_model_does_not_replace_a_real_one(slot, written_bundle, old):
    synthetic = loaded(written_bundle)
    with pytest.raises(BundleError, match=r"does not take the place.*synthetic rows"):
        slot.swap(synthetic)
    assert slot.current is old
    other = ModelSlot()
    other.swap(synthetic)
    other.swap(old)
    assert other.current is old


def test_an_incompatible_model_is_refused_with_the_reason(slot, newer_bundle, old, house_contract):
    fewer = replace(house_contract, columns=house_contract.columns[:-1])
    with pytest.raises(
        IncompatibleError, match=r"would break the clients.*kind: the column is gone"
    ):
        slot.swap(loaded(newer_bundle, contract=fewer))
    assert slot.current is old


def test_the_same_version_from_another_source_is_noted_without_a_swap(slot, old):
    slot.relabel(replace(old, source="mlflow", identity="models:/x/1#r"))
    assert slot.current.bundle is old.bundle
    assert (slot.current.source, slot.current.identity) == ("mlflow", "models:/x/1#r")
    assert slot.previous is None


def test_swaps_under_load_fail_no_request_and_mix_no_versions(slot, old, new, house_rows):
    X = house_rows[0][:8]
    answers = {one.version: one.bundle.value_encoded(X) for one in (old, new)}
    assert answers[old.version] != answers[new.version]
    stop, seen, wrong = threading.Event(), set(), []

    def request() -> None:
        while not stop.is_set():
            running = slot.current
            got = running.bundle.value_encoded(X)
            seen.add(running.version)
            if got != answers[running.version] or {v.version for v in got} != {running.version}:
                wrong.append(got)

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        slot.swap(new if number % 2 == 0 else old)
        if number % 10 == 0:
            slot.rollback()
            slot.rollback()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen <= set(answers)


@pytest.fixture(scope="module")
def bundle(written_bundle) -> ModelBundle:
    return load_bundle(written_bundle)


class Changed(ModelBundle):
    """A bundle whose answers a test spoils."""

    spoil = staticmethod(lambda valuations: valuations)

    def value_encoded(self, X):
        return self.spoil(super().value_encoded(X))


def changed(bundle: ModelBundle, spoil) -> ModelBundle:
    kind = type("Spoilt", (Changed,), {"spoil": staticmethod(spoil)})
    return kind(**{name: getattr(bundle, name) for name in bundle.__dataclass_fields__})


def test_a_sound_bundle_is_warmed_up_and_explains(bundle):
    warm_up(bundle)
    warm_up_explanations(bundle)


def test_a_bundle_without_golden_rows_is_left_as_it_is(bundle):
    empty = replace(bundle, golden=np.empty((0, 6)))
    warm_up(empty)
    warm_up_explanations(empty)


@pytest.mark.parametrize(
    "values", [{"prediction": float("nan")}, {"lower": 1e12}, {"upper": float("inf")}]
)
def test_an_answer_that_is_none_keeps_a_bundle_from_serving(bundle, values):
    spoilt = changed(bundle, lambda all_: [replace(one, **values) for one in all_])
    with pytest.raises(BundleError, match="expected an estimate within its interval"):
        warm_up(spoilt)


def test_an_answer_that_depends_on_the_batch_keeps_a_bundle_from_serving(bundle):
    def drift(valuations):
        factor = 1.0 + 1e-3 * (len(valuations) > 8)
        return [
            replace(v, **{k: getattr(v, k) * factor for k in ("prediction", "lower", "upper")})
            for v in valuations
        ]

    with pytest.raises(BundleError, match=r"for a row in any batch.* in one of 32"):
        warm_up(changed(bundle, drift))


def test_a_bundle_that_cannot_explain_does_not_serve(bundle):
    broken = replace(bundle, contributions=None)
    with pytest.raises(BundleError, match="expected an explanation of a golden row"):
        warm_up_explanations(broken)
