"""A damaged bundle is tried again soon, then ever more seldom."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tasador.core.errors import BundleError
from tasador.serving.model_loading.cascade import Refusals, RefusedBeforeError


def test_without_a_model_a_damaged_bundle_is_tried_within_seconds_and_then_ever_more_seldom() -> (
    None
):
    now = 0.0
    refusals = Refusals(900.0, clock=lambda: now)
    tries = []
    while now < 4000.0:
        try:
            refusals.check("store", "v1", desperate=True)
        except RefusedBeforeError:
            now += 1.0
            continue
        tries.append(now)
        refusals.note("store", "v1", BundleError("checksum"))
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


def test_with_a_model_a_refused_bundle_is_not_fetched_again() -> None:
    now = 0.0
    refusals = Refusals(900.0, clock=lambda: now)
    refusals.note("store", "v1", BundleError("checksum"))
    now = 10_000.0
    with pytest.raises(RefusedBeforeError, match="refused before"):
        refusals.check("store", "v1", desperate=False)
    refusals.check("store", "v2", desperate=False)
