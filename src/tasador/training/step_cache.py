"""One step of a run: its result is kept by content key and verified before it is used again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, TypeVarTuple

from tasador.core.errors import BundleError, StorageError
from tasador.core.hashing import code_version, fingerprint, sha256_file
from tasador.core.memory import give_memory_back
from tasador.core.storage import atomic_folder
from tasador.reporting.cards import Card, CardBuilder, read_card, recorded_card, write_card
from tasador.training.context import RunContext, StepOutput
from tasador.training.errors import CacheError

_log = logging.getLogger(__name__)
Earlier = TypeVarTuple("Earlier")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Step(Generic[Result, *Earlier]):
    """One step of the pipeline.

    Its result is always what `load` reads, so that a run which finds it in the cache and one that
    makes it go on alike.

    Attributes:
        name: Its name on the command line.
        title: Its name for people.
        packages: The packages and modules whose code decides its result.
        inputs: What beside the earlier steps decides its result, as plain values.
        run: Does the work, from the results of earlier steps.
        load: Reads the result from a filled folder.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    inputs: Callable[[RunContext], Any]
    run: Callable[[RunContext, StepOutput, *Earlier], None]
    load: Callable[[RunContext, Path], Result]


#: Called with a step's name and its card when it has ended.
OnStep = Callable[[str, Card], None]


_SEAL = "artifact.json"


class StepCache:
    """Results under ``<root>/<step>/<key>``, each with the hashes of its files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, step: str, key: str) -> Path | None:
        """Return the folder of an intact result, or None when it must be made (again)."""
        folder = self._root / step / key
        if not folder.exists():
            return None
        try:
            files = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
            for name, digest in files.items():
                if sha256_file(folder / name) != digest:
                    raise ValueError(f"{name} has changed")
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("the cached result of %s is damaged (%s): made again", step, error)
            return None
        return folder

    @contextmanager
    def create(self, step: str, key: str) -> Iterator[Path]:
        """Give a folder to fill; it becomes the result only when the body ends well."""
        target = self._root / step / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            yield folder
            files = {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            (folder / _SEAL).write_text(json.dumps(files, indent=1), encoding="utf-8")

    def journal(self, step: str, key: str) -> Path:
        """Return the file in which a step notes what it has finished, to resume from."""
        return self._root / step / f"{key}.journal.jsonl"


class StoppedError(Exception):
    """The last step that was asked for has ended: the run is over, and went well."""


class StepRunner:
    """Runs the steps of a run one by one; each leaves a card.

    Earlier steps than those that the settings ask for come from the cache or are made.

    Args:
        run: The run.
        steps: The names of all steps, in their order.
        cache: Where results are kept.
        on_step: Called after each step.

    Attributes:
        cards: Those of the steps so far.
        results: What the steps so far returned, by name.
        key: Under which the last step's result is cached: the next step's key is made from it, its
            own inputs, its settings and the code that it runs.
    """

    def __init__(
        self,
        run: RunContext,
        steps: Sequence[str],
        cache: StepCache,
        on_step: OnStep | None = None,
    ) -> None:
        self.run = run
        self.cards: list[Card] = []
        self.results: dict[str, Any] = {}
        self.key = ""
        self._steps, self._cache, self._on_step = list(steps), cache, on_step
        self._wanted = set(run.settings.steps or steps)
        if run.settings.from_step is not None:
            self._wanted = set(steps[self._steps.index(run.settings.from_step) :])

    def __call__(self, step: Step[Result, *Earlier], *earlier: *Earlier) -> Result:
        """Return the step's result: from the cache, or made now from the earlier results.

        Raises:
            StoppedError: No step from here on was asked for.
        """
        if self._wanted.isdisjoint(self._steps[self._steps.index(step.name) :]):
            raise StoppedError
        self.key = fingerprint(
            [step.name, self.key, step.inputs(self.run), code_version(step.packages)]
        )
        folder = self.run.run_folder / "cards"
        builder: CardBuilder | None = None
        try:
            with recorded_card(folder, step.name, step.title) as builder:
                result = self._reused(step, builder)
                if result is None:
                    result = self._made(step, builder, *earlier)
        finally:
            card = folder / f"{step.name}.json"
            if builder is not None and card.exists():  # a full disk takes no card either
                self.cards.append(read_card(card))
        if self._on_step is not None:
            self._on_step(step.name, self.cards[-1])
        self.results[step.name] = result
        return result

    def _reused(self, step: Step[Result, *Earlier], builder: CardBuilder) -> Result | None:
        """Return a cached result; None when there is none, or it lacks something it needs."""
        forced = self.run.settings.force and step.name in self._wanted
        folder = None if forced else self._cache.find(step.name, self.key)
        if folder is None:
            return None
        try:
            earlier = read_card(folder / "card" / f"{step.name}.json")
            result = step.load(self.run, folder)
        except (OSError, ValueError, KeyError, StorageError, BundleError) as error:
            _log.warning(
                "the cached result of %s cannot be used (%s): made again", step.name, error
            )
            return None
        builder.use_cached(earlier)
        return result

    def _made(
        self, step: Step[Result, *Earlier], builder: CardBuilder, *earlier: *Earlier
    ) -> Result:
        journal = self._cache.journal(step.name, self.key)
        with self._cache.create(step.name, self.key) as folder:
            step.run(self.run, StepOutput(folder, builder, journal), *earlier)
            write_card(folder / "card", builder.build())
        give_memory_back()
        result = step.load(self.run, _read_back(self._cache, step.name, self.key))
        journal.unlink(missing_ok=True)
        return result


def _read_back(cache: StepCache, step: str, key: str) -> Path:
    """Return the folder that a step has just filled."""
    folder = cache.find(step, key)
    if folder is None:
        raise CacheError.of(step)
    return folder
