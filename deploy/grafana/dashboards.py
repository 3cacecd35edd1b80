"""The Grafana dashboards as code: ``python deploy/grafana/dashboards.py`` writes them as JSON.

Two of them: the service (is it up, fast, complete?) and the model (is it still right?). A test
keeps the written files equal to this code, and every metric in them to one that exists.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="prometheus")
RATE = "[$__rate_interval]"


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return one query."""
    return prometheus.Dataquery().expr(expression).legend_format(legend or "__auto")


def lines(
    title: str, unit: str, *queries: prometheus.Dataquery, span: int = 12, from_zero: bool = True
) -> Any:
    """Return a panel of lines over time."""
    panel = timeseries.Panel().title(title).unit(unit).datasource(SOURCE).span(span).height(8)
    panel = panel.fill_opacity(8).line_width(2)
    panel = panel.min(0) if from_zero else panel
    for letter, one in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(one.ref_id(letter))
    return panel


def levels() -> list[models.ValueMap]:
    """Return words and colours of a verdict's levels."""
    words = {
        "0": ("OK", "green"),
        "1": ("cannot tell", "blue"),
        "2": ("WARN", "orange"),
        "3": ("ALERT", "red"),
    }
    return [
        models.ValueMap(
            options={
                value: models.ValueMappingResult(text=text, color=colour, index=int(value))
                for value, (text, colour) in words.items()
            }
        )
    ]


def health(title: str, name: str, unit: str) -> Any:
    """Return a panel of one indicator: its value, and beside it OK, WARN or ALERT."""
    value = query(f'max(tasador_indicator{{name="{name}"}})', "value").ref_id("A")
    level = query(f'max(tasador_indicator_level{{name="{name}"}})', "level").ref_id("B")
    panel = stat.Panel().title(title).unit(unit).datasource(SOURCE).span(6).height(4)
    panel = panel.text_mode(common.BigValueTextMode.VALUE).with_target(value).with_target(level)
    plain = models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "text"})
    words = [
        models.DynamicConfigValue("mappings", levels()),
        models.DynamicConfigValue("unit", "none"),
    ]
    return panel.override_by_name("value", [plain]).override_by_name("level", words)


def by_level(title: str, one: prometheus.Dataquery, *, span: int = 12) -> Any:
    """Return a panel that says OK, WARN or ALERT of each series."""
    panel = number(title, "none", one, span=span).mappings(levels()).height(8)
    return panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME)


def number(title: str, unit: str, one: prometheus.Dataquery, *, span: int = 6) -> Any:
    """Return a panel of one number."""
    panel = stat.Panel().title(title).unit(unit).datasource(SOURCE).span(span).height(4)
    return panel.with_target(one.ref_id("A"))


def empty(title: str, uid: str) -> dashboard.Dashboard:
    """Return a dashboard without panels."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["tasador"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
    )


def service() -> dashboard.Dashboard:
    """Is the service up, fast and complete?"""
    predict = 'route="/api/v1/predict"'
    seconds = f"rate(tasador_request_seconds_bucket{{{predict}}}{RATE})"

    def quantile(q: float) -> prometheus.Dataquery:
        return query(f"histogram_quantile({q}, sum by (le) ({seconds}))", f"p{q * 100:g}")

    stage = f"sum by (stage) (rate(tasador_stage_seconds_sum{RATE}))"
    calls = f"sum by (stage) (rate(tasador_stage_seconds_count{RATE}))"
    failed = f'sum(rate(tasador_requests_total{{status=~"5.."}}{RATE}))'
    return (
        empty("tasador: service", "tasador-service")
        .with_panel(number("Model", "none", query("max(tasador_model_loaded)")))
        .with_panel(number("Requests", "reqps", query(f"sum(rate(tasador_requests_total{RATE}))")))
        .with_panel(
            number(
                "Failing",
                "percentunit",
                query(f"({failed} or vector(0)) / sum(rate(tasador_requests_total{RATE}))"),
            )
        )
        .with_panel(number("Under way", "none", query("sum(tasador_in_flight)")))
        .with_panel(
            lines(
                "Requests by status",
                "reqps",
                query(f"sum by (status) (rate(tasador_requests_total{RATE}))", "{{status}}"),
            )
        )
        .with_panel(
            lines(
                "Refused rows by field",
                "cps",
                query(
                    f"sum by (field, cause) (rate(tasador_refused_values_total{RATE}))",
                    "{{field}}: {{cause}}",
                ),
            )
        )
        .with_panel(
            lines("Latency of a valuation", "s", quantile(0.5), quantile(0.95), quantile(0.99))
        )
        .with_panel(lines("Mean time by stage", "s", query(f"{stage} / {calls}", "{{stage}}")))
        .with_panel(
            lines(
                "Records",
                "cps",
                query(f"sum by (fate) (rate(tasador_records_total{RATE}))", "{{fate}}"),
            )
        )
        .with_panel(
            lines(
                "Records that wait",
                "none",
                query("max(tasador_records_queued)", "in memory"),
                query("max(tasador_records_spool_bytes)", "bytes in the spool"),
            )
        )
        .with_panel(
            lines(
                "Breakers (0 closed, 1 half open, 2 open)",
                "none",
                query("max by (source) (tasador_breaker_state)", "{{source}}"),
            )
        )
        .with_panel(
            lines(
                "Version that answers",
                "none",
                query(
                    "max by (version, source) (tasador_model_info)", "{{version}} from {{source}}"
                ),
            )
        )
        .with_panel(
            lines(
                "Swaps and refusals of models",
                "none",
                query("increase(tasador_model_swaps_total[1h])", "swaps"),
                query("increase(tasador_model_refusals_total[1h])", "refusals"),
            )
        )
    )


def model() -> dashboard.Dashboard:
    """Is the model still right?"""
    verdict = number("Verdict", "none", query('max(tasador_verdict_level{check="all"})')).mappings(
        levels()
    )
    by_check = lines(
        "Verdict by check (0 ok, 1 cannot tell, 2 warning, 3 alert)",
        "none",
        query("max by (check) (tasador_verdict_level)", "{{check}}"),
    )
    error = 'tasador_figure{name="mape"}'
    return (
        empty("tasador: model", "tasador-model")
        .with_variable(
            dashboard.QueryVariable("column")
            .query("label_values(tasador_input_mean, column)")
            .datasource(SOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
        .with_panel(verdict)
        .with_panel(number("Rows in the window", "none", query("max(tasador_window_rows)")))
        .with_panel(
            number("Alerts firing", "none", query("sum(tasador_alert_firing) or vector(0)"))
        )
        .with_panel(
            number(
                "Since the last round",
                "s",
                query("time() - max(tasador_watch_last_round_seconds)"),
            )
        )
        .with_panel(health("Within 10%", "within_10", "percent"))
        .with_panel(health("Within 20%", "within_20", "percent"))
        .with_panel(health("Mean MAPE", "mape", "percent"))
        .with_panel(health("PSI of the worst column", "psi", "none"))
        .with_panel(health("Latency p50", "latency_p50", "ms"))
        .with_panel(health("Latency p95", "latency_p95", "ms"))
        .with_panel(health("Latency p99", "latency_p99", "ms"))
        .with_panel(health("Standard deviation of the estimates", "prediction_std", "none"))
        .with_panel(
            lines(
                "Drift by column: PSI",
                "none",
                query("max by (column) (tasador_drift_psi)", "{{column}}"),
            )
        )
        .with_panel(
            by_level(
                "Drift by column: level",
                query("max by (column) (tasador_drift_level)", "{{column}}"),
            )
        )
        .with_panel(
            lines(
                "MAPE, measured and estimated, and its limit",
                "percent",
                query(f"max by (estimated) ({error})", "estimated: {{estimated}}"),
                query('max(tasador_indicator_limit{name="mape"})', "limit"),
            )
        )
        .with_panel(
            lines(
                "Within 10% and 20%, and their limits",
                "percent",
                query('max by (name) (tasador_indicator{name=~"within_10|within_20"})', "{{name}}"),
                query(
                    'max by (name) (tasador_indicator_limit{name=~"within_10|within_20"})',
                    "{{name}}: limit",
                ),
            )
        )
        .with_panel(
            lines(
                "Latency of the window's rows",
                "ms",
                query('max by (name) (tasador_indicator{name=~"latency_.*"})', "{{name}}"),
            )
        )
        .with_panel(by_check)
        .with_panel(
            lines(
                "Estimates: spread and range",
                "none",
                *(
                    query(f"max(tasador_prediction_{name})", name)
                    for name in ("std", "min", "median", "mean", "max")
                ),
                from_zero=False,
            )
        )
        .with_panel(
            lines(
                "Values of $column: mean, 5th and 95th percentile",
                "none",
                *(
                    query(f'max(tasador_input_{name}{{column="$column"}})', name)
                    for name in ("p05", "mean", "p95")
                ),
                from_zero=False,
            )
        )
        .with_panel(
            lines(
                "Values beyond twice the training maximum",
                "none",
                query("max by (column) (tasador_input_beyond_twice) > 0", "{{column}}"),
            )
        )
        .with_panel(
            lines(
                "Estimates: median and tenths",
                "none",
                *(
                    query(
                        f"histogram_quantile({q}, sum by (le) "
                        f"(rate(tasador_predictions_bucket{RATE})))",
                        f"p{q * 100:g}",
                    )
                    for q in (0.1, 0.5, 0.9)
                ),
            )
        )
        .with_panel(
            lines(
                "Alerts firing",
                "none",
                query("max by (alert) (tasador_alert_firing) == 1", "{{alert}}"),
            )
        )
    )


def rendered() -> dict[str, str]:
    """Return the dashboards' JSON by file name."""
    return {
        f"{name}.json": json.dumps(
            json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=1, sort_keys=True
        )
        + "\n"
        for name, made in (("service", service()), ("model", model()))
    }


def main() -> None:
    """Write the dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
