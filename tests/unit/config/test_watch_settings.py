"""How a service is watched, read from YAML."""

from __future__ import annotations

import pytest

from tasador.config.watch import read_watch_settings
from tasador.core.errors import ConfigError

TEXT = """
interval_s: 60
limits: {mape_max: 12, psi_alert: 0.25}
alerts:
  - {name: price, checks: [performance], after: 1, severity: page, routes: [hook, log]}
routes:
  hook: {kind: webhook, url: "https://example.org/${HOOK_PATH}", secret: "${HOOK_SECRET}"}
"""


def test_without_a_file_the_defaults_hold() -> None:
    settings = read_watch_settings(None)
    assert settings.interval_s == 300
    assert {rule.name for rule in settings.alerts} >= {"performance", "drift", "blind"}


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
def test_what_cannot_be_meant_is_named(tmp_path, text, said) -> None:
    file = tmp_path / "watch.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_watch_settings(file)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_watch_settings(tmp_path / "nothing.yaml")
