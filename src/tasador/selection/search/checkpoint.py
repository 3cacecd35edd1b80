"""The journal of a search: what is measured is noted at once, so that a search can go on."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.hashing import fingerprint, to_plain
from tasador.selection.search.shared_work import Candidate, Drop

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldScore:
    """What one candidate reached on one fold.

    Attributes:
        candidate: The candidate.
        fold: The fold's number.
        held: Every metric on the held-out rows; empty when it failed.
        fitted: Every metric on the fitting rows.
        seconds: CPU seconds.
        losses: Shape (m,): each held-out row's loss, in a race; None otherwise.
        error: Why it failed, or None.
        drop: Why a race gave it up before the fold was done, or None.
    """

    candidate: Candidate
    fold: int
    held: dict[str, float]
    fitted: dict[str, float]
    seconds: float
    losses: NDArray[np.float32] | None = None
    error: str | None = None
    drop: Drop | None = None

    @property
    def row_losses(self) -> NDArray[np.float32]:
        """The row losses of a race."""
        if self.losses is None:
            raise ValueError("row losses are kept in a race only")
        return self.losses


class Journal:
    """One line for each finished fold of a candidate, appended as it is known.

    Args:
        path: The file, made when needed; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, list[dict[str, Any]]] = {}
        for entry in _read(path):
            self._known.setdefault(entry["key"], []).append(entry)

    def known(self, candidate: Candidate) -> dict[int, FoldScore]:
        """Return what an earlier, interrupted search measured of a candidate, by fold."""
        return {
            entry["fold"]: FoldScore(
                candidate,
                entry["fold"],
                entry["held"],
                entry["fitted"],
                entry["seconds"],
                _unpacked(entry["losses"]),
                drop=_read_drop(entry["drop"]),
            )
            for entry in self._known.get(_key(candidate), [])
        }

    def append(self, score: FoldScore) -> None:
        """Write down a fold's score."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        packed = None
        if score.losses is not None:
            packed = base64.b64encode(score.losses.tobytes()).decode("ascii")
        line = json.dumps(
            {
                "key": _key(score.candidate),
                "fold": score.fold,
                "held": to_plain(score.held),
                "fitted": to_plain(score.fitted),
                "seconds": score.seconds,
                "losses": packed,
                "drop": to_plain(score.drop),
            }
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the break in front ends a line that was cut off


def _key(candidate: Candidate) -> str:
    return fingerprint([candidate.family, candidate.params])


def _read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    entries = []
    names = {"key", "fold", "held", "fitted", "seconds", "losses", "drop"}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line:
            continue
        try:
            entry = json.loads(line)
            _unpacked(entry["losses"])
            _read_drop(entry["drop"])
            if entry.keys() != names:
                raise ValueError("not a line of this journal")
            entries.append(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("a damaged line of %s is ignored (an interrupted write)", path)
    return entries


def _read_drop(plain: Mapping[str, Any] | None) -> Drop | None:
    if plain is None:
        return None
    return Drop(**{**plain, "steps": None if plain["steps"] is None else tuple(plain["steps"])})


def _unpacked(packed: str | None) -> NDArray[np.float32] | None:
    if packed is None:
        return None
    return np.frombuffer(base64.b64decode(packed), dtype=np.float32)
