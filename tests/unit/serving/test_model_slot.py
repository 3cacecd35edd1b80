"""The slot of the model that serves, and warming a bundle up."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from tasador.core.errors import BundleError, ConfigError
from tasador.registry.bundle.model_bundle import ModelBundle, load_bundle
from tasador.serving.model_loading.model_slot import (
    IncompatibleError,
    LoadedModel,
    ModelHolder,
    warm_up,
    warm_up_explanations,
)
from tasador.settings.serving import SourceSettings


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
def holder(old) -> ModelHolder:
    holder = ModelHolder()
    assert holder.swap(old) is None
    return holder


def test_the_model_before_is_kept(holder, old, new):
    assert holder.swap(new) is old
    assert (holder.current, holder.previous) == (new, old)


def test_a_rollback_bars_the_version_left_and_a_second_one_undoes_it(holder, old, new):
    holder.swap(new)
    assert holder.rollback() is old
    assert (holder.current, holder.previous, holder.barred) == (old, new, {new.version})
    assert holder.rollback() is new
    assert (holder.current, holder.barred) == (new, {old.version})
    holder.unpin()
    assert holder.barred == frozenset()


def test_there_is_nothing_to_go_back_to_at_first(holder):
    with pytest.raises(ConfigError, match="no previous model"):
        holder.rollback()
    with pytest.raises(ConfigError, match="no previous model"):
        ModelHolder().rollback()


def test_a_pinned_version_stays(holder, old, new):
    holder.swap(new)
    assert holder.pin(old.version) is old
    with pytest.raises(ConfigError, match=f"{old.version} is pinned"):
        holder.swap(new)
    with pytest.raises(ConfigError, match=f"{old.version} is pinned"):
        holder.rollback()
    assert holder.pin(old.version) is old
    holder.unpin()
    holder.swap(new)
    assert holder.current is new


def test_only_a_version_in_memory_can_be_pinned(holder, old):
    with pytest.raises(ConfigError, match=rf"'other' is not in memory.*one of {old.version}"):
        holder.pin("other")
    with pytest.raises(ConfigError, match="a model to be loaded"):
        ModelHolder().pin("other")
    assert holder.pinned is None


def test_a_synthetic_model_does_not_replace_a_real_one(holder, written_bundle, old):
    synthetic = loaded(written_bundle)
    with pytest.raises(BundleError, match=r"does not take the place.*synthetic rows"):
        holder.swap(synthetic)
    assert holder.current is old
    other = ModelHolder()
    other.swap(synthetic)
    other.swap(old)
    assert other.current is old


def test_an_incompatible_model_is_refused_with_the_reason(
    holder, newer_bundle, old, house_contract
):
    fewer = replace(house_contract, columns=house_contract.columns[:-1])
    with pytest.raises(
        IncompatibleError, match=r"would break the clients.*kind: the column is gone"
    ):
        holder.swap(loaded(newer_bundle, contract=fewer))
    assert holder.current is old


def test_the_same_version_from_another_source_is_noted_without_a_swap(holder, old):
    holder.relabel(replace(old, source="mlflow", identity="models:/x/1#r"))
    assert holder.current.bundle is old.bundle
    assert (holder.current.source, holder.current.identity) == ("mlflow", "models:/x/1#r")
    assert holder.previous is None


def test_swaps_under_load_fail_no_request_and_mix_no_versions(holder, old, new, house_rows):
    X = house_rows[0][:8]
    answers = {one.version: one.bundle.value_encoded(X) for one in (old, new)}
    assert answers[old.version] != answers[new.version]
    stop, seen, wrong = threading.Event(), set(), []

    def request() -> None:
        while not stop.is_set():
            running = holder.current
            got = running.bundle.value_encoded(X)
            seen.add(running.version)
            if got != answers[running.version] or {v.version for v in got} != {running.version}:
                wrong.append(got)

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        holder.swap(new if number % 2 == 0 else old)
        if number % 10 == 0:
            holder.rollback()
            holder.rollback()
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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"order": ("mlflow", "ftp")}, "got mlflow, ftp"),
        ({"order": ("local", "local")}, "at most once"),
        ({"poll_s": 0.0}, "poll_s cannot be meant"),
        ({"hop_deadline_s": float("nan")}, "hop_deadline_s cannot be meant"),
        ({"attempts": 0}, "attempts >= 1"),
        ({"poll_jitter": 1.0}, "poll_jitter < 1"),
    ],
)
def test_settings_of_sources_that_cannot_be_meant_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        SourceSettings(**values)
