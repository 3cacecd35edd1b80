"""How a service is watched, read from YAML."""

from __future__ import annotations

import pytest

from tasador.core.errors import ConfigError
from tasador.monitoring.settings import (
    FILE,
    VARIABLES,
    Thresholds,
    read_watch_settings,
    whom_alerts_reach,
)

TEXT = """
interval_s: 60
limits: {mape_max: 12, psi_alert: 0.25}
alerts:
  - {name: price, checks: [performance], after: 1, severity: page, routes: [hook, log]}
routes:
  hook: {kind: webhook, url: "https://example.org/${HOOK_PATH}", secret: "${HOOK_SECRET}"}
"""


EMAIL = {"EMAIL_URL": "smtps://mail.example.org:465", "EMAIL_FROM": "a@example.org",
         "EMAIL_TO": "b@example.org, c@example.org", "EMAIL_USER": "me@example.org",
         "EMAIL_PASSWORD": "p@ss/word"}  # fmt: skip


def named(variables: dict[str, str]) -> dict[str, str]:
    return {f"TASADOR_ALERTS__{name}": text for name, text in variables.items()}


def test_without_a_file_the_limits_that_ship_hold() -> None:
    settings = read_watch_settings(None, {})
    assert settings.interval_s == 300
    assert {rule.name for rule in settings.alerts} >= {"performance", "drift", "blind"}
    limits = settings.limits
    assert (limits.within_10_min, limits.mape_max) == (65, 12)
    assert limits.relative_when_worse == ("within_10_min", "mape_max")
    assert (limits.psi_warn, limits.psi_alert) == (0.1, 0.2)
    assert (limits.twice_warn, limits.latency_p99_ms, limits.std_floor) == (0, 200, 0.1)
    assert (limits.refused_warn, limits.refused_alert) == (0.01, 0.05)


def test_a_file_of_ones_own_changes_what_it_names_and_what_it_sets_holds_as_it_is(
    tmp_path,
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("limits: {mape_max: 9, latency_p99_ms: 50}\nwindow_s: 60\n")
    for settings in (read_watch_settings(file, {}), read_watch_settings(None, {FILE: str(file)})):
        limits = settings.limits
        assert (limits.mape_max, limits.latency_p99_ms, limits.within_10_min) == (9, 50, 65)
        assert limits.relative_when_worse == ("within_10_min",)
        assert (settings.window_s, settings.interval_s) == (60, 300)
    file.write_text("limits: {mape_max: 9, relative_when_worse: [mape_max]}")
    assert read_watch_settings(file, {}).limits.relative_when_worse == ("mape_max",)
    file.write_text("")
    assert read_watch_settings(file, {}) == read_watch_settings(None, {})
    file.write_text("limits: {relative_when_worse: [psi_warn]}")
    with pytest.raises(ConfigError, match=r"not one of an error.*got psi_warn"):
        read_watch_settings(file, {})
    file.write_text("- a list")
    with pytest.raises(ConfigError, match="holds no settings"):
        read_watch_settings(file, {})


@pytest.mark.parametrize(
    ("variables", "kinds"),
    [
        ({}, []),
        ({"SLACK_URL": "", "EMAIL_TO": " "}, []),
        ({"SLACK_URL": "https://hooks.example.org/x"}, ["slack"]),
        ({"WEBHOOK_URL": "https://example.org/x", "WEBHOOK_SECRET": "s"}, ["webhook"]),
        (EMAIL, ["email"]),
        ({"WANDB_PROJECT": "houses"}, ["wandb"]),
    ],
    ids=["none", "empty", "slack", "webhook", "email", "wandb"],
)
def test_variables_make_routes_that_every_rule_takes_but_the_one_about_empty_windows(
    variables, kinds
) -> None:
    settings = read_watch_settings(None, named(variables))
    assert [route.kind for route in settings.routes.values()] == kinds
    said = whom_alerts_reach(settings.reached)
    assert ("nobody" in said) == (not kinds)
    assert all(kind in said for kind in kinds)
    if not kinds:
        assert "TASADOR_ALERTS__SLACK_URL" in said


def test_name_and_password_of_the_mail_server_may_hold_any_character() -> None:
    route = read_watch_settings(None, named(EMAIL)).routes["email"]
    assert route.url == "smtps://me%40example.org:p%40ss%2Fword@mail.example.org:465"
    assert route.recipients == ("b@example.org", "c@example.org")
    assert "p%40ss" not in repr(route)


def test_a_route_reaches_nobody_unless_a_rule_takes_it(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("alerts: [{name: drift, checks: [drift], routes: [log]}]")
    slack = named({"SLACK_URL": "https://hooks.example.org/x"})
    assert read_watch_settings(file, slack).reached == ()
    assert read_watch_settings(None, slack).reached == ("slack",)


def test_a_route_of_the_file_replaces_the_one_of_variables(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("routes: {slack: {kind: slack, url: 'https://other.example.org/y'}}")
    found = read_watch_settings(file, named({"SLACK_URL": "https://hooks.example.org/x"}))
    assert found.routes["slack"].url == "https://other.example.org/y"


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_variable_with_a_typing_error_is_refused_without_its_value(name) -> None:
    wrong = name.replace("_", "")
    with pytest.raises(
        ConfigError, match=f"TASADOR_ALERTS__{wrong}: unknown setting.*{name}"
    ) as caught:
        read_watch_settings(None, named({wrong: "a-secret"}))
    assert "a-secret" not in str(caught.value)


def test_the_defaults_of_the_code_and_of_the_file_differ_in_the_absolute_limits_only() -> None:
    shipped, plain = read_watch_settings(None, {}).limits, Thresholds()
    changed = {
        name
        for name in Thresholds.__dataclass_fields__
        if getattr(shipped, name) != getattr(plain, name)
    }
    assert changed == {"within_10_min", "mape_max", "relative_when_worse", "latency_p50_ms",
                       "latency_p95_ms", "latency_p99_ms"}  # fmt: skip


def test_a_file_sets_limits_alerts_and_routes_with_secrets_from_the_environment(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HOOK_PATH", "p")
    monkeypatch.setenv("HOOK_SECRET", "s")
    file = tmp_path / "watch.yaml"
    file.write_text(TEXT)
    settings = read_watch_settings(file)
    assert settings.interval_s == 60
    assert (settings.limits.mape_max, settings.limits.psi_alert) == (12, 0.25)
    (rule,) = settings.alerts
    assert (rule.name, rule.routes, rule.after) == ("price", ("hook", "log"), 1)
    assert settings.routes["hook"].url == "https://example.org/p"
    assert settings.routes["hook"].secret == "s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interval: 3", r"watch\.interval: unknown setting.*did you mean 'interval_s'"),
        ("alerts: [{checks: [drift]}]", r"watch\.alerts\[0\]: name must be set"),
        ("alerts: {name: x}", r"watch\.alerts: wrong type"),
        ("routes: {hook: {kind: pigeon}}", r"expected one of log, webhook"),
        ("limits: {mape_max: low}", r"mape_max: wrong type"),
        ("interval_s: [", "not valid YAML"),
        ("routes: {h: {kind: webhook, url: '${NOT_SET_ANYWHERE}'}}", "NOT_SET_ANYWHERE"),
    ],
)
def test_what_is_invalid_is_named(tmp_path, text, said) -> None:
    file = tmp_path / "watch.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_watch_settings(file)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_watch_settings(tmp_path / "nothing.yaml")
