"""Warming a bundle up beside the running one: nothing is slow, or wrong, for the first client."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tasador.core.errors import BundleError
from tasador.modeling.parity import TOLERANCE
from tasador.registry.bundle.model_bundle import ModelBundle

_BATCHES = (1, 2, 8, 32, 128, 1000)


def warm_up(bundle: ModelBundle, batches: tuple[int, ...] = _BATCHES) -> None:
    """Value the bundle's golden rows in batches of several sizes, and check the answers.

    Caches are filled, the model's arenas grow to their size, and one row must get the same answer
    alone as among others.

    Raises:
        BundleError: An answer is no number, lies outside its interval, or depends on the batch.
    """
    rows = bundle.golden
    if len(rows) == 0:
        return
    first: float | None = None
    for size in batches:
        answers = bundle.value_encoded(np.resize(rows, (size, rows.shape[1])))
        for answer in answers:
            values = (answer.lower, answer.prediction, answer.upper)
            if not (np.isfinite(values).all() and values == tuple(sorted(values))):
                raise _wrong("an estimate within its interval", str(values))
        got = answers[0].prediction
        first = got if first is None else first
        if not math.isclose(got, first, rel_tol=TOLERANCE):
            raise _wrong(f"{first!r} for a row in any batch", f"{got!r} in one of {size}")


def warm_up_explanations(bundle: ModelBundle) -> None:
    """Explain one golden row, which prepares the paths of a bundle's trees (half a second).

    Raises:
        BundleError: The row cannot be explained.
    """
    if len(bundle.golden) == 0:
        return
    decoded = bundle.encoder.decode(bundle.golden[:1])
    row: dict[str, Any] = {name: values[0] for name, values in decoded.items()}
    try:
        bundle.explain(row)
    except Exception as error:
        raise _wrong("an explanation of a golden row", f"{type(error).__name__}: {error}") from None


def _wrong(expected: str, got: str) -> BundleError:
    return BundleError(
        "the bundle fails while it is warmed up",
        expected=expected,
        got=got,
        remedy="the running model goes on; train and register again",
    )
