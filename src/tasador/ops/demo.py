"""The whole loop on this machine: drift, retraining, gates, canary, champion, rollback.

A table is played back: the first champion has seen nothing of one region, and then rows of that
region are asked. Everything is real: rows and prices, training, processes, traffic,
gates, registry.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder
from tasador.core import clock
from tasador.core.errors import ServingError, TasadorError
from tasador.core.seeds import generator
from tasador.data.sources import load_table
from tasador.data.validation import validate_table
from tasador.lifecycle.alias_updates import CHALLENGER
from tasador.lifecycle.api import Lifecycle, Place, opened
from tasador.lifecycle.new_rows import rows_in
from tasador.lifecycle.retraining_policy import CONDITION_NOT_MET, NO_TRIGGER
from tasador.monitoring.verdict import Level
from tasador.ops.api_client import ApiClient
from tasador.ops.processes import Member, Stack
from tasador.ops.simulate import report_outcomes, scenario, value_rows
from tasador.records.audit_log import AuditEntry, Verdicts
from tasador.settings.compose import compose

#: Of what the watcher prints, the lines about retraining that the history does not have.
_OWN = ("not retrained", "the model is left")
_MOST_COLUMNS = 3


class Narrator:
    """Reads the history, the verdicts and the watcher's log, and tells what is new.

    Args:
        lifecycle: The model's.
        workspace: Where the watcher writes its log.
        say: Called with each line.
    """

    def __init__(self, lifecycle: Lifecycle, workspace: Path, say: Callable[[str], None]) -> None:
        self.retraining = self.canary = False
        self.failure = ""
        self._lifecycle, self._say = lifecycle, say
        self._log, self._read = workspace / "logs" / "watcher.log", 0
        self._told = {entry.id for entry in lifecycle.history(100)}
        self._level: Level | str = ""
        self._last = ""
        self._began = clock.seconds()

    def champion(self) -> str:
        """Return the champion's number."""
        return self._lifecycle.ledger.standing().champion

    def tail(self) -> list[str]:
        """Return the last lines of the watcher's log."""
        return self._log.read_text(errors="replace").splitlines()[-12:]

    def look(self) -> None:
        """Tell what is new since the last look."""
        self._verdict()
        self._policy()
        for entry in reversed(self._lifecycle.history(100)):
            if entry.id not in self._told:
                self._told.add(entry.id)
                self._entry(entry)

    def _tell(self, text: str) -> None:
        self._say(f"   +{clock.seconds() - self._began:3.0f} s  {text}")

    def _verdict(self) -> None:
        found = Verdicts(self._lifecycle.ledger.database).read(
            self._lifecycle.versions.name, limit=1
        )
        if not found or found[0].level == self._level:
            return
        body, self._level = found[0].body, found[0].level
        drift = sorted(
            ((one["psi"], one["name"]) for one in body["drift"] if one.get("psi") is not None),
            reverse=True,
        )[:_MOST_COLUMNS]
        psi = ", ".join(f"{name} {value:.2f}" for value, name in drift)
        level = self._level.replace("_", " ").upper()
        self._tell(
            f"watcher: {level}, {body['rows']} rows in its window" + (f"; PSI {psi}" if psi else "")
        )

    def _policy(self) -> None:
        with self._log.open(errors="replace") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        for line in lines:
            text = line.strip()
            same = re.sub(r"[\d.]+", "#", text)
            if text.startswith(_OWN) and same != self._last:
                self._last = same
                self._tell(f"watcher: {text}")

    def _entry(self, entry: AuditEntry) -> None:
        details = entry.details
        phase, version = str(details.get("phase", "")), details.get("version")
        if entry.action == "retrain":
            self.retraining = True
            if phase in ("failed", "interrupted"):
                self.failure = str(details.get("note"))
        if entry.action == "canary":
            self.canary = True
        if entry.action == "canary":
            text = f"canary of version {version}: {phase}, {details.get('note')}; {entry.reason}"
        else:
            alias = details.get("alias", "")
            text = f"{entry.action} {alias} {phase}".replace("  ", " ")
            text += f" (version {version}): {entry.reason}"
        if details.get("gates_summary"):
            text += f"; {details['gates_summary']}"
        self._tell(text)
        if details.get("alias") == CHALLENGER:
            for gate in details["gates"]["gates"]:
                self._say(f"            {gate['name']}: {gate['state']}, {gate['text']}")


Floats = NDArray[np.float64]
Say = Callable[[str], None]

#: A training of about a minute instead of four: fewer families, no sweep, shorter proofs.
SHORT = (
    "sweep.trials=0", "selection.folds=3", "features.cross_fit_folds=5", "impute.strategy=median",
    "features.clusters=8", "register.average=1",
    "register.spatial_folds=2", "register.parity_rows=20000", "register.bootstrap_draws=200",
    "~selection.families.gradient_boosting", "~selection.families.random_forest",
    "~selection.families.extra_trees", "~selection.families.hist_gradient_boosting",
)  # fmt: skip
#: Windows and policy of the watcher: the usual ones take days.
INTERVAL_S, WINDOW_S = 4.0, 20.0
POLICY = (
    "retraining.performance=false",  # so that it is drift that asks for it
    "retraining.level_from=0",  # a region's own prices are no change of all prices
    "gates.prb_slack=0.03",  # the cap on prices gives every model of this table a PRB of -.04
)
_EARLIER = 0.9
_BATCH, _USUAL, _RECENT = 50, 200, 500
_SLOW_S, _FAST_S = 2.0, 0.4


@dataclass(frozen=True)
class Later:
    """The rows of the service's later life, as they are and as they become."""

    usual: tuple[Floats, Floats]
    changed: tuple[Floats, Floats]
    encoder: Encoder
    prediction_name: str
    description: str


@dataclass(frozen=True)
class Ended:
    """What the demonstration came to: mean absolute percentage errors, in percent.

    Attributes:
        usual: Of the first champion, before anything changed.
        changed: Of the first champion, after.
        retrained: Of the second one, after.
        back_s: Seconds from the rollback's end to the last answer of the second one.
    """

    usual: float
    changed: float
    retrained: float
    back_s: float


def demo(
    workspace: Path, members: Sequence[Member], url: str, say: Say, *, limit_s: float = 900.0
) -> Ended:
    """Show the loop from drift to rollback.

    Args:
        workspace: An empty folder; everything is written there.
        members: What serves and watches `workspace`, see `cli.up.stack_members`.
        url: Of the API among them.
        say: Called with each line.
        limit_s: Longest wait for any step.

    Raises:
        TasadorError: A step failed, or was not reached in time. Every process is stopped.
    """
    later = _prepared(workspace, say)
    with _running(Stack(members, workspace / "logs")), opened(Place(workspace)) as lifecycle:
        play = _Play(ApiClient(url), later, Narrator(lifecycle, workspace, say), limit_s)
        first = play.champion()
        say(f"\n2. Usual traffic: {_USUAL} rows of later, with their outcomes")
        play.send(later.usual, lambda: play.sent >= _USUAL, _FAST_S)
        usual = play.error()
        say(f"   MAPE {usual:.1f}% (version {first}); how far it is from a retraining:")
        tasador(
            "retrain", "--dry-run", "--workspace", str(workspace),
            *(word for setting in POLICY for word in ("--set", setting)),
            say=say, codes=(0, NO_TRIGGER, CONDITION_NOT_MET),
        )  # fmt: skip
        say(f"\n3. The world changes: {later.description}")
        play.errors.clear()
        play.send(later.changed, lambda: play.narrator.retraining, _SLOW_S)
        say(f"   MAPE {play.error():.1f}% (version {first}); traffic goes on while it is retrained")
        play.send(later.changed, lambda: play.narrator.canary, _SLOW_S)
        changed = play.error()
        say("\n4. The canary: the challenger beside the champion on real traffic")
        play.send(later.changed, lambda: play.champion() != first, _FAST_S)
        second = play.champion()
        say(f"\n5. Version {second} is champion")
        play.errors.clear()
        play.send(later.changed, lambda: len(play.recent()) >= _USUAL, _FAST_S)
        retrained = play.error()
        say(f"   MAPE {retrained:.1f}% (version {second}), {changed:.1f}% before (version {first})")
        say("\n6. Rollback")
        before = play.version
        tasador("rollback", "--reason", "shown in the demo", "--workspace", str(workspace), say=say)
        began = time.monotonic()
        play.send(later.changed, lambda: play.version != before, 0.1)
        back_s = time.monotonic() - began
        say(f"   version {play.champion()} answers again, {back_s:.1f} s later")
    return Ended(usual, changed, retrained, back_s)


class _Play:
    """Sends rows with their outcomes, and tells what happens meanwhile."""

    def __init__(self, client: ApiClient, later: Later, narrator: Narrator, limit_s: float) -> None:
        self.narrator = narrator
        self.errors: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self.version = ""
        self.sent = 0
        self._client, self._later, self._limit_s = client, later, limit_s
        self._next = 0

    def champion(self) -> str:
        """Return the champion's number."""
        return self.narrator.champion()

    def recent(self) -> deque[float]:
        """Return the relative errors of what answers now."""
        return self.errors[self.version]

    def error(self) -> float:
        """Return the MAPE of what answers now, over its newest rows."""
        return 100.0 * float(np.nanmean(self.recent()))

    def send(self, rows: tuple[Floats, Floats], until: Callable[[], bool], pause_s: float) -> None:
        """Send batch after batch until something has happened.

        Raises:
            ServingError: It did not happen in time, or the service refuses.
        TasadorError: The retraining failed, e.g. at a gate.
        """
        X, y = rows
        end = time.monotonic() + self._limit_s
        while not until():
            if time.monotonic() > end:
                raise ServingError(
                    f"the next step was not reached within {self._limit_s:.0f} s",
                    got="\n" + "\n".join(self.narrator.tail()),
                )
            picked = np.arange(self._next, self._next + _BATCH) % len(X)
            self._next += _BATCH
            found = value_rows(
                self._client, self._later.encoder, X[picked], y[picked],
                self._later.prediction_name,
            )  # fmt: skip
            report_outcomes(self._client, list(found.outcomes))
            self.errors[found.version].extend(found.errors)
            self.version = found.version
            self.sent += len(picked)
            self.narrator.look()
            if self.narrator.failure:
                raise TasadorError(f"the retraining failed: {self.narrator.failure}")
            time.sleep(pause_s)
        self.narrator.look()


def _prepared(workspace: Path, say: Say) -> Later:
    """Train the first champion on most rows outside of one region; return the others."""
    contract = compose([], project=Path.cwd()).contract
    table = load_table(contract, workspace / "source", timeout_s=5.0, attempts=1, seed=42)
    valid = validate_table(table, contract, max_refused_share=0.5)
    region = scenario("new-region")(contract, valid.X, valid.y)
    order = generator(0, "demo").permutation(len(valid.y))
    X, y = valid.X[order], valid.y[order]
    new = rows_in(X, region.X)
    cut = round(_EARLIER * int((~new).sum()))
    earlier, later = np.split(np.flatnonzero(~new), [cut])
    encoder = Encoder(contract)
    columns = {**encoder.decode(X[earlier]), contract.target.name: y[earlier]}
    file = workspace / "earlier.csv"
    pl.DataFrame(columns).write_csv(file)
    say(f"1. The first champion: trained on {cut:,} {table.origin} rows of {len(y):,}")
    tasador(
        "run", f"dataset.source.paths=[{file}]", "dataset.source.sha256=[]",
        f"storage.workspace={workspace}", *SHORT, say=say,
    )  # fmt: skip
    return Later(
        (X[later], y[later]), (X[new], y[new]), encoder, contract.target.prediction_name,
        region.description,
    )  # fmt: skip


def tasador(*words: str, say: Say, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command of tasador and show what it prints.

    Raises:
        TasadorError: It ended with none of `codes`.
    """
    say(f"   $ tasador {' '.join(words)}")
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        say(f"   {line}")
    if done.returncode not in codes:
        raise TasadorError(f"`tasador {words[0]}` ended with code {done.returncode}")


@contextmanager
def _running(stack: Stack) -> Iterator[None]:
    """Run a stack while the body does; it is stopped however the body ends."""
    ready, failed = threading.Event(), list[TasadorError]()

    def work() -> None:
        try:
            stack.run(ready.set)
        except TasadorError as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="stack")
    thread.start()
    try:
        ready.wait()
        if not failed:
            yield
    finally:
        stack.stop()
        thread.join()
    if failed:
        raise failed[0]
