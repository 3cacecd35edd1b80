"""Seeds: one number in the configuration, an independent stream for every use."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed in [0, 2**31) for the use called `names`, independent of other names.

    Adding a new use never shifts the random numbers of an old one, which a shared generator would.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return a numpy generator for the use called `names`."""
    return np.random.default_rng(derive_seed(seed, *names))


def sample_places(n: int, most: int, seed: int, *names: object) -> NDArray[np.intp]:
    """Return at most `most` of the places 0..n-1, ascending: all, or a sample for this use."""
    if n <= most:
        return np.arange(n)
    return np.sort(generator(seed, *names).choice(n, most, replace=False))
