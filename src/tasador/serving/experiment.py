"""An experiment: a challenger beside the champion, its stages, and what decides about it.

The state is one value in the records' database that all servers read and change by compare and
set. `decide` is a pure function of it and of the evidence: rows that both models valued, with the
outcomes known so far, which `collect` reads.

A test made for a fixed number of rows and looked at again and again raises a false alarm sooner or
later. Those of `Moments.bounds` and `failure_evidence` may be looked at after every row: the chance
that they *ever* raise one is at most alpha.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.core import clock
from tasador.core.hashing import to_plain
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.shared_state import SharedState

Floats = NDArray[np.float64]

#: Rows for which the confidence sequence is tightest.
TUNED_FOR = 500
_FASTER = (2.0, 5.0, 20.0)
_SHARES = (0.1, 0.3, 0.6, 0.9)

ExperimentStatus = Literal["running", "passed", "rolled back", "stopped", "settled"]
#: While an experiment has one of these, the challenger may get traffic.
ACTIVE = ("running", "passed")
#: Kinds of harm among which alpha is divided.
_HARMS = 4


@dataclass(frozen=True)
class Moments:
    """Number, mean and variance (population) of some values.

    Attributes:
        n: How many.
        mean: Their mean; 0 without any.
        variance: Their variance; 0 without any.
    """

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float] | Floats) -> Moments:
        """Return the moments of finite `values`."""
        array = np.asarray(values, dtype=np.float64)
        return cls(len(array), float(array.mean()), float(array.var())) if len(array) else cls()

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        total = self.variance * self.n + other.variance * other.n
        return Moments(n, mean, (total + gap * gap * self.n * other.n / n) / n)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return two bounds between which the true mean stays at all times.

        The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
        (2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
        Statistics 52(6), theorem 2.2), which is the normal mixture of Robbins (1970) and of the
        mixture SPRT (Johari, Koomen, Pekelis and Walsh 2022) with an estimated variance. Being
        asymptotic, it wants some 50 values, more when they are very skewed. Values
        must not be constant for it to mean anything: with a variance of 0 the bounds are the mean.

        Args:
            alpha: Chance that the mean is ever outside.

        Returns:
            Lower and upper bound; infinite for fewer than two values.
        """
        if self.n < 2:
            return -math.inf, math.inf
        rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TUNED_FOR
        scaled = self.n * rho2 + 1
        wide = math.sqrt(2 * scaled / (self.n**2 * rho2) * math.log(math.sqrt(scaled) / alpha))
        half = wide * math.sqrt(self.variance)
        return self.mean - half, self.mean + half


def failure_evidence(failures: int, attempts: int, limit: float) -> float:
    """Return how strongly failures speak for a share above `limit`: an e-value.

    The mean of likelihood ratios of several larger shares against `limit`, each of which is a
    supermartingale when the true share is at most `limit`. By Ville's inequality (1939) it ever
    reaches 1/alpha with a chance of at most alpha.

    Args:
        failures: How many attempts failed.
        attempts: How many there were.
        limit: The share that is still acceptable, in (0, 1).
    """
    shares = {s for s in (*(limit * f for f in _FASTER), *_SHARES) if limit < s < 1.0}
    if not shares:
        return 1.0
    good = attempts - failures
    logs = [
        failures * math.log(share / limit) + good * math.log((1 - share) / (1 - limit))
        for share in shares
    ]
    # taken out of the sum: the exponentials of the others cannot overflow
    most = max(logs)
    value = sum(math.exp(one - most) for one in logs) / len(logs)
    # beyond 700 the exponential is more than a float holds
    return math.exp(min(most + math.log(value), 700.0))


@dataclass(frozen=True)
class Criteria:
    """The criteria by which an experiment is decided.

    Attributes:
        stages: Shares of the traffic, one after the other; 0 is shadow only.
        by: Whether the ``client`` or the ``request`` decides which model answers.
        min_rows: Rows valued by both models before a stage may end.
        min_outcomes: Known outcomes from which errors decide and disagreement no longer does.
        require_outcomes: Whether no stage ends without them.
        alpha: Chance of ever rolling a harmless challenger back.
        error_margin: By how much the mean relative error may be larger, e.g. 0.01.
        disagreement_limit: Mean difference of the two estimates, as a logarithm, that is bearable
            while no outcomes are known.
        latency_ms: By how many milliseconds valuing rows may take longer.
        failure_limit: Share of valuations that may fail.
        max_rows: Rows valued by both models after which an undecided challenger goes.
    """

    stages: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 1.0)
    by: Literal["client", "request"] = "request"
    min_rows: int = 200
    min_outcomes: int = 50
    require_outcomes: bool = False
    alpha: float = 0.05
    error_margin: float = 0.01
    disagreement_limit: float = 0.5
    latency_ms: float = 5.0
    failure_limit: float = 0.005
    max_rows: int = 100_000


@dataclass(frozen=True)
class Experiment:
    """Where an experiment stands.

    Attributes:
        id: Its name; also the salt of the traffic's hash.
        champion: The champion's bundle version.
        challenger: The challenger's.
        number: The challenger's number in the registry.
        status: running, passed, rolled back, stopped, or settled once the challenger is champion.
        stage: Position in the rules' stages.
        started: When it began, seconds since the epoch.
        stage_started: When the stage began.
        reason: Why it is where it is.
        rules: What decides.
    """

    id: str
    champion: str
    challenger: str
    number: str
    status: ExperimentStatus
    stage: int
    started: float
    stage_started: float
    reason: str = ""
    rules: Criteria = field(default_factory=Criteria)

    @property
    def share(self) -> float:
        """Share of the traffic that the challenger answers now."""
        if self.status == "passed":
            return 1.0
        return self.rules.stages[self.stage] if self.status == "running" else 0.0

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Experiment:
        """Read what `to_plain` made."""
        rules = {**plain["rules"], "stages": tuple(plain["rules"]["stages"])}
        return cls(**{**plain, "rules": Criteria(**rules)})


@dataclass(frozen=True)
class Evidence:
    """What is known of both models on the same rows.

    Attributes:
        rows: Rows valued by both since the experiment began.
        stage_rows: The same since the stage began.
        attempts: Valuations that the challenger was asked for.
        failures: How many of them failed.
        error: Challenger's minus champion's relative error, for rows with an outcome.
        champion_error: The champion's, likewise.
        challenger_error: The challenger's, likewise.
        disagreement: Absolute difference of the logarithms of both estimates.
        slower: Challenger's minus champion's milliseconds for the same rows.
    """

    rows: int = 0
    stage_rows: int = 0
    attempts: int = 0
    failures: int = 0
    error: Moments = field(default_factory=Moments)
    champion_error: Moments = field(default_factory=Moments)
    challenger_error: Moments = field(default_factory=Moments)
    disagreement: Moments = field(default_factory=Moments)
    slower: Moments = field(default_factory=Moments)


def decide(experiment: Experiment, evidence: Evidence) -> Experiment:
    """Return where the experiment stands after looking at the evidence, which may be done often."""
    if experiment.status != "running":
        return experiment
    # a clock that was set back: rows of now would count only once it is as late again
    now = clock.seconds()
    experiment = replace(
        experiment,
        started=min(experiment.started, now),
        stage_started=min(experiment.stage_started, now),
    )
    rules = experiment.rules
    # Bonferroni: the chance that any of the harms is found by accident stays at alpha
    alpha = rules.alpha / _HARMS
    harm = _harm(rules, evidence, alpha)
    if harm is not None:
        return _ended(experiment, "rolled back", harm)
    waits = _waits(rules, evidence, alpha)
    if waits is not None:
        if evidence.rows >= rules.max_rows:
            return _ended(
                experiment, "rolled back", f"undecided after {evidence.rows} rows: {waits}"
            )
        return replace(experiment, reason=waits)
    if experiment.stage + 1 >= len(rules.stages):
        return _ended(experiment, "passed", "every stage passed")
    following = rules.stages[experiment.stage + 1]
    return replace(
        experiment,
        stage=experiment.stage + 1,
        stage_started=clock.seconds(),
        reason=f"{evidence.stage_rows} rows without harm: {following:.0%} of the traffic",
    )


def _harm(rules: Criteria, evidence: Evidence, alpha: float) -> str | None:
    """Return the proven harm of the challenger; None while there is none."""
    failing = failure_evidence(evidence.failures, evidence.attempts, rules.failure_limit)
    if failing >= 1.0 / alpha:
        return f"{evidence.failures} of {evidence.attempts} valuations failed"
    low, _ = evidence.error.bounds(alpha)
    if evidence.error.n >= rules.min_outcomes and low > rules.error_margin:
        return (
            f"its relative error is larger by {evidence.error.mean:.2%}, at least {low:.2%}, on "
            f"{evidence.error.n} rows with outcomes"
        )
    low, _ = evidence.disagreement.bounds(alpha)
    if evidence.error.n < rules.min_outcomes and low > rules.disagreement_limit:
        return (
            f"it disagrees with the champion by {math.expm1(evidence.disagreement.mean):.0%}, and "
            f"no outcome says who is right"
        )
    low, _ = evidence.slower.bounds(alpha)
    if low > rules.latency_ms:
        return f"it takes {evidence.slower.mean:.1f} ms longer"
    return None


def _waits(rules: Criteria, evidence: Evidence, alpha: float) -> str | None:
    """Return what is not yet known well enough for the next stage."""
    if evidence.stage_rows < rules.min_rows:
        return f"{evidence.stage_rows} of {rules.min_rows} rows in this stage"
    known = evidence.error.n >= rules.min_outcomes
    if not known and rules.require_outcomes:
        return f"{evidence.error.n} of {rules.min_outcomes} outcomes"
    _, high = evidence.error.bounds(alpha)
    if known and high > rules.error_margin:
        return f"its error may be larger by up to {high:.2%}"
    _, high = evidence.disagreement.bounds(alpha)
    if not known and high > rules.disagreement_limit:
        return f"it may disagree by up to {math.expm1(min(high, 50.0)):.0%}"
    _, high = evidence.slower.bounds(alpha)
    if evidence.slower.n >= 2 and high > rules.latency_ms:
        return f"it may take up to {high:.1f} ms longer"
    return None


def _ended(experiment: Experiment, status: ExperimentStatus, reason: str) -> Experiment:
    return replace(experiment, status=status, reason=reason)


class ExperimentBook:
    """The experiment of one model, shared through the database.

    Args:
        database: The records' database.
        model: The registered model's name.
    """

    def __init__(self, database: Database, model: str) -> None:
        self.database = database
        self.model = model
        self._state = SharedState(database)
        self._key = f"experiment/{model}"

    def read(self) -> tuple[Experiment | None, int]:
        """Return the experiment, None when there never was one, and the version seen."""
        entry = self._state.get(self._key)
        return (None if entry.value is None else Experiment.from_plain(entry.value)), entry.version

    def write(self, experiment: Experiment, seen: int, actor: str) -> bool:
        """Keep the experiment if nobody changed it since, and note a change of stage or status."""
        # the audit entry belongs to the change: neither without the other
        with self.database.transaction():
            before, _ = self.read()
            if self._state.put(self._key, to_plain(experiment), seen) is None:
                return False
            if before is None or _stage_of(before) != _stage_of(experiment):
                AuditTrail(self.database).add(
                    actor, "canary", self.model,
                    from_value=experiment.champion, to_value=experiment.champion,
                    reason=experiment.reason,
                    details={
                        "phase": experiment.status, "version": experiment.number,
                        "note": f"{experiment.share:.0%} of the traffic",
                        "experiment": experiment.id,
                    },
                )  # fmt: skip
        return True

    def end(
        self, status: ExperimentStatus, actor: str, reason: Callable[[Experiment], str | None]
    ) -> Experiment | None:
        """End the experiment if it is active and `reason` gives one; None when it was not ended."""
        # another server may have changed it meanwhile: look at what it is now
        while True:
            experiment, seen = self.read()
            if experiment is None or experiment.status not in ACTIVE:
                return None
            why = reason(experiment)
            if why is None:
                return None
            ended = replace(experiment, status=status, reason=why)
            if self.write(ended, seen, actor):
                return ended

    def report(self, experiment: str, worker: str, tally: Mapping[str, Any]) -> None:
        """Keep what one worker counted; only that worker writes it."""
        key = f"tally/{self.model}/{experiment}/{worker}"
        self._state.put(key, dict(tally), self._state.get(key).version)

    def tallies(self, experiment: str) -> list[Mapping[str, Any]]:
        """Return what all workers counted."""
        found = self._state.under(f"tally/{self.model}/{experiment}/")
        return [entry.value for entry in found]


def _stage_of(experiment: Experiment) -> tuple[str, str, int]:
    return experiment.id, experiment.status, experiment.stage


#: What the id of a shadow's record adds to the id of the answer that it shadows.
SHADOW_SUFFIX = "-s"
_MOST_ROWS = 100_000

# a shadow's record names the answer it belongs to, whichever of the two models answered
_PAIRS = """
    SELECT s.version, s.prediction, r.prediction, o.actual, s.time
    FROM records s
    JOIN records r ON r.id = substr(s.id, 1, length(s.id) - 2)
    LEFT JOIN outcomes o ON o.prediction_id = r.id
    WHERE s.time >= ? AND s.variant = 'shadow' AND s.version IN (?, ?) AND r.version IN (?, ?)
    ORDER BY s.time, s.id LIMIT ?
"""


def collect(database: Database, book: ExperimentBook, experiment: Experiment) -> Evidence:
    """Read what is known about an experiment.

    Raises:
        OutageError: The database cannot be used.
    """
    pair = (experiment.champion, experiment.challenger)
    rows = database.execute(_PAIRS, (experiment.started, *pair, *pair, _MOST_ROWS))
    attempts, failures, slower = _counted(book.tallies(experiment.id))
    if not rows:
        return Evidence(attempts=attempts, failures=failures, slower=slower)
    shadowed = np.array([row[0] == experiment.challenger for row in rows])
    values = np.array([row[1:] for row in rows], dtype=np.float64)
    challenger = np.where(shadowed, values[:, 0], values[:, 1])
    champion = np.where(shadowed, values[:, 1], values[:, 0])
    # NaN is a failure, which is counted elsewhere
    good = np.isfinite(challenger) & np.isfinite(champion)
    positive = good & (challenger > 0) & (champion > 0)
    gap = np.abs(np.log(challenger[positive] / champion[positive]))
    actual = values[:, 2]
    known = good & np.isfinite(actual) & (actual != 0)
    errors = [
        np.abs(one[known] - actual[known]) / np.abs(actual[known]) for one in (challenger, champion)
    ]
    return Evidence(
        rows=len(rows),
        stage_rows=int(np.sum(values[:, 3] >= experiment.stage_started)),
        attempts=attempts,
        failures=failures,
        error=Moments.of(errors[0] - errors[1]),
        challenger_error=Moments.of(errors[0]),
        champion_error=Moments.of(errors[1]),
        disagreement=Moments.of(gap),
        slower=slower,
    )


def _counted(tallies: Sequence[Mapping[str, Any]]) -> tuple[int, int, Moments]:
    slower = Moments()
    for tally in tallies:
        slower = slower.plus(Moments(**tally["slower"]))
    attempts = sum(int(tally["attempts"]) for tally in tallies)
    return attempts, sum(int(tally["failures"]) for tally in tallies), slower


class WorkerCounts:
    """What one worker counted; from the event loop and from the shadow's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.attempts = self.failures = self.in_a_row = self.dropped = 0
        self.slower = Moments()

    def succeeded(self) -> None:
        with self._lock:
            self.attempts, self.in_a_row = self.attempts + 1, 0

    def failed(self) -> int:
        with self._lock:
            self.attempts, self.failures = self.attempts + 1, self.failures + 1
            self.in_a_row += 1
            return self.in_a_row

    def valued(self, slower_ms: float) -> None:
        self.succeeded()
        with self._lock:
            self.slower = self.slower.plus(Moments.of([slower_ms]))

    def to_dict(self) -> dict[str, Any]:
        with self._lock:
            return {
                "attempts": self.attempts, "failures": self.failures, "dropped": self.dropped,
                "slower": asdict(self.slower),
            }  # fmt: skip
