"""What the cards of select and sweep show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasador.metrics.regression import METRICS, label
from tasador.reporting import evaluation_plots
from tasador.reporting.cards import CardBuilder
from tasador.selection.families.catalog import family
from tasador.selection.search.grid_search import TIED, CandidateResult, SearchResult
from tasador.selection.search.optuna_sweep import SweepResult, has_settled
from tasador.settings.run import SelectionSettings, SweepSettings

_GAP = 0.5  # a training error this share below the held-out error is worth a warning
_MOST_ROWS = 200
_MOST_BARS = 12


def show_search(card: CardBuilder, result: SearchResult, settings: SelectionSettings) -> None:
    """Show the leaderboard, the families and who overfits."""
    scoring, done = result.scoring, result.complete
    name = label(scoring)
    dropped = sum(c.dropped is not None for c in result.candidates)
    card.fact("Winner", describe(result.best))
    card.fact(f"{name} by cross-validation", result.best.mean(scoring))
    if result.baseline is not None:
        plain, best = result.baseline.mean(scoring), result.best.mean(scoring)
        card.fact(
            f"{name} of a plain LightGBM",
            plain,
            f"500 trees on the table's own columns, same folds; the winner's is "
            f"{abs(1.0 - best / plain):.1%} {'lower' if best < plain else 'higher'}",
        )
    card.fact("Candidates", len(result.candidates), f"{settings.folds} folds, train only")
    card.fact("CPU seconds", sum(c.seconds for c in result.candidates))
    if settings.racing:
        card.fact("Dropped by the race", dropped, "they could not win any more")
    _show_families(card, result)
    shown = done[:_MOST_ROWS]
    card.table(
        "Leaderboard",
        ("candidate", *(label(m) for m in METRICS), f"spread of {name}", f"{name} fitted", "CPU s"),
        [
            (
                title,
                *(c.mean(m) for m in METRICS),
                c.spread(scoring),
                c.train_mean(scoring),
                c.seconds,
            )
            for title, c in zip(short_labels(shown), shown, strict=True)
        ],
        note="Parameters that all candidates of a family share are left out. Seconds are of one "
        "core; work that candidates share is divided among them."
        + (f" The first {_MOST_ROWS} of {len(done)}." if len(done) > _MOST_ROWS else ""),
    )
    card.figure(
        evaluation_plots.leaderboard_bars(
            short_labels(done)[:_MOST_BARS],
            [np.array([f[scoring] for f in c.held]) for c in done[:_MOST_BARS]],
            metric=name,
            chosen=0,
        )
    )
    gap = 1.0 - result.best.train_mean(scoring) / result.best.mean(scoring)
    if gap > _GAP:
        card.warn(
            f"The winner's {name} on the rows it was fitted on is {gap:.0%} lower than on held-out "
            "rows: it follows the training rows closely."
        )
    for candidate in result.candidates:
        if candidate.error is not None:
            card.warn(f"{describe(candidate)} failed: {candidate.error}")


def _show_families(card: CardBuilder, result: SearchResult) -> None:
    scoring, chances = result.scoring, result.tie_probabilities()
    best = result.best.mean(scoring)
    rows = []
    for c in result.best_of_families():
        gap = 1.0 - c.train_mean(scoring) / c.mean(scoring)
        p = chances[c.family]
        verdict = "winner" if c is result.best else "tied with the winner" if p > TIED else "worse"
        cost = sum(o.seconds for o in result.candidates if o.family == c.family)
        behind = c.mean(scoring) / best - 1.0
        rows.append(
            (
                family(c.family).title,
                c.mean(scoring),
                c.spread(scoring),
                f"{behind:+.1%}",
                None if c is result.best else p,
                verdict,
                f"{gap:.0%}" + (" (overfits)" if gap > _GAP else ""),
                cost,
            )
        )
    for name in dict.fromkeys(c.family for c in result.candidates if c.dropped is not None):
        if name in chances:
            continue
        first = next(c for c in result.candidates if c.family == name and c.dropped is not None)
        cost = sum(o.seconds for o in result.candidates if o.family == name)
        after = f"dropped by the race after fold {max(len(first.held), 1)}"
        rows.append(
            (
                family(name).title,
                first.mean(scoring),
                first.spread(scoring),
                "",
                None,
                after,
                "",
                cost,
            )
        )
    card.table(
        "Families, each by its best candidate",
        (
            "family",
            label(scoring),
            "spread",
            "behind",
            "p-value",
            "verdict",
            "lower where fitted",
            "CPU s",
        ),
        rows,
        note="The p-value is that of equality with the winner: Nadeau and Bengio's corrected "
        f"paired t-test on the folds; above {TIED:g} counts as tied. 'Lower where fitted' is by "
        "how much the error falls on the rows fitted on. The CPU time is the whole family's.",
    )


def show_sweep(
    card: CardBuilder,
    result: SweepResult,
    settings: SweepSettings,
    others: Sequence[SweepResult] = (),
) -> None:
    """Show the trials, what mattered and what was found; `others` are tied families, tuned too."""
    metric = label(result.metric)
    whole = [t for t in result.trials if t.error is None and t.dropped is None]
    card.fact("Family", family(result.family).title)
    ended = ""
    if has_settled(result.trials, result.metric, settings.patience):
        ended = f"; ended since the last {settings.patience} brought no more than chance"
    card.fact("Trials", len(result.trials), f"{settings.folds} folds, train only{ended}")
    given_up = sum(t.dropped is not None for t in result.trials)
    card.fact("Given up early", given_up, f"pruner: {settings.pruner}")
    card.fact(f"{metric} of the selection's winner", result.trials[0].mean(result.metric))
    gain = 1.0 - result.best.mean(result.metric) / result.trials[0].mean(result.metric)
    card.fact(
        f"{metric} of the best trial",
        result.best.mean(result.metric),
        f"{gain:.2%} below the winner's",
    )
    for other in others:
        card.fact(
            f"Tied with {family(other.family).title}, also tuned",
            other.best.mean(result.metric),
            f"{metric} of its best trial of {len(other.trials)}",
        )
    card.table(
        "Parameters",
        ("parameter", "best trial", "final model"),
        [(k, result.best.params.get(k), v) for k, v in result.final_params.items()],
        note=None
        if family(result.family).linear
        else "The final model takes smaller and more steps than the sweep, which only ranks.",
    )
    for trial in result.trials:
        if trial.error is not None:
            card.warn(f"{describe(trial)} failed: {trial.error}")
    if len(result.trials) < 2:
        return
    scores = [t.mean(result.metric) if t in whole else np.nan for t in result.trials]
    card.figure(evaluation_plots.sweep_history(np.array(scores), metric=metric))
    if len(result.importance) > 1:
        card.figure(evaluation_plots.parameter_importance(result.importance))
    # a parameter that the winner left at its default has that value
    complete = [family(result.family).canonical(trial.params) for trial in whole]
    numeric = {
        key: [params.get(key) for params in complete]
        for key in result.best.params
        if len({str(params.get(key)) for params in complete}) > 1
    }
    if len(whole) > 2 and len(numeric) > 1:
        values = np.array([trial.mean(result.metric) for trial in whole])
        card.figure(evaluation_plots.parallel_coordinates(numeric, values, metric=metric))


def show_recorded(
    card: CardBuilder, families: str | None, links: Sequence[str], trouble: str | None
) -> None:
    """Show where the comparison of families and the trials were recorded in W&B, when they were."""
    if trouble is not None:
        card.warn(trouble)
    if families is not None:
        card.fact("Families in W&B", families)
    if not links:
        return
    card.fact("Trials recorded in W&B", len(links))
    card.table(
        "Trials in W&B",
        ("trial", "run"),
        list(enumerate(links, start=1)),
        note="A folder is an offline run in the workspace: `wandb sync FOLDER` uploads it.",
    )


def describe(candidate: CandidateResult) -> str:
    """Return a candidate as one line of text."""
    params = ", ".join(f"{key}={value}" for key, value in candidate.params.items())
    return f"{family(candidate.family).title} ({params})"


def short_labels(candidates: Sequence[CandidateResult]) -> list[str]:
    """Return each candidate's family with those parameters in which its relatives differ."""
    values: dict[tuple[str, str], set[str]] = {}
    for candidate in candidates:
        for key, value in candidate.params.items():
            values.setdefault((candidate.family, key), set()).add(str(value))
    labels = []
    for candidate in candidates:
        told = [
            f"{k}={v}" for k, v in candidate.params.items() if len(values[candidate.family, k]) > 1
        ]
        title = family(candidate.family).title
        labels.append(f"{title} ({', '.join(told)})" if told else title)
    return labels
