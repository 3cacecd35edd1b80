"""A bundle is proved before it serves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasador.core.errors import BundleError, ConfigError
from tasador.registry.bundle.model_bundle import ModelBundle, load_bundle
from tasador.serving.model_loading.warm_up import warm_up, warm_up_explanations
from tasador.settings.serving import SourceSettings


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
        ({"poll_s": 0.0}, "poll_s is invalid"),
        ({"hop_deadline_s": float("nan")}, "hop_deadline_s is invalid"),
        ({"attempts": 0}, "attempts >= 1"),
        ({"poll_jitter": 1.0}, "poll_jitter < 1"),
    ],
)
def test_settings_of_sources_that_cannot_be_meant_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        SourceSettings(**values)
