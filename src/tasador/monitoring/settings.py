"""`WatchSettings`: how a service is watched; from ``conf/watch.yaml``, files and variables.

`Thresholds`: from where on a number is a warning or an alert.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from tasador.core.errors import ConfigError
from tasador.monitoring.alerts import DEFAULT_RULES, AlertRule
from tasador.monitoring.notifications import RouteSettings, described
from tasador.settings.validation import InvalidSettingError, build

DAY = 86_400.0
#: Absolute limits on errors; see `Thresholds.relative_when_worse`.
ABSOLUTE = {"mape": "mape_max", "within_10": "within_10_min", "within_20": "within_20_min"}


@dataclass(frozen=True)
class Thresholds:
    """The limits of every check. A limit that is None is not applied.

    Attributes:
        chance: Rate of false alarms that is allowed per family of checks: a difference counts only
            when chance makes one as large less often than this, corrected for the number of checks.
        min_rows: Rows below which distributions are not evaluated.
        min_outcomes: Known values below which errors are not evaluated.
        psi_warn: PSI, beyond what chance gives on average at the window's size, that is moderate.
        psi_alert: And significant.
        auc_warn: Area under the curve of the classifier that tells reference from window.
        auc_alert: See `auc_warn`.
        missing_warn: Rise of the share of missing values.
        missing_alert: See `missing_warn`.
        bounds_alert: Share outside the contract's bounds or categories; any at all warns.
        range_warn: Share outside what the reference's rows span.
        range_alert: See `range_warn`.
        twice_warn: Share of rows beyond twice the training maximum (of negative values: minimum)
            that is still fine; the default warns of a single row.
        twice_alert: Share from which on several such rows are an alert.
        mape_max: Highest mean absolute percentage error, in percent.
        within_10_min: Lowest share within 10%, in percent.
        within_20_min: Lowest share within 20%, in percent.
        relative_when_worse: Those of `mape_max` and the `within` limits that give way where the
            model's own held-out figure (out of fold, in the reference) does not meet them: the
            limit is then that figure and `worse`, since the absolute one would alarm for as long as
            the model is in use. Where no such figure is known they are not applied.
        coverage_slack: How far the intervals' coverage may fall below what they promise.
        worse: How many times the reference's error is too much, for what has no limit of its own;
            also for segments, each against its own on the reference.
        segment_gap: How many times the whole window's error a segment's may be.
        concept: How many times the expected error, given the rows, is a change of concept.
        collapse: Share of the reference's spread of estimates below which a model is stuck.
        std_floor: Share of the held-out estimates' standard deviation below which the window's is
            an alert. The default table's estimates have one of about 100 000, so that a tenth is
            10 000 there.
        std_min: The same as a number in the target's unit, instead of the share.
        latency_p50_ms: Limits of the latency's percentiles.
        latency_p95_ms: See `latency_p50_ms`.
        latency_p99_ms: See `latency_p50_ms`.
        latency_near: Share of a latency's limit from which on it is a warning.
        failures_max: Highest share of requests that fail.
        refused_warn: Share of the rows sent to a service that it refused.
        refused_alert: See `refused_warn`.
    """

    chance: float = 0.01
    min_rows: int = 30
    min_outcomes: int = 30
    psi_warn: float = 0.1
    psi_alert: float = 0.2
    auc_warn: float = 0.6
    auc_alert: float = 0.7
    missing_warn: float = 0.01
    missing_alert: float = 0.05
    bounds_alert: float = 0.01
    range_warn: float = 0.01
    range_alert: float = 0.05
    twice_warn: float = 0.0
    twice_alert: float = 0.01
    mape_max: float | None = None
    within_10_min: float | None = None
    within_20_min: float | None = None
    relative_when_worse: tuple[str, ...] = ()
    coverage_slack: float = 0.05
    worse: float = 1.25
    segment_gap: float | None = None
    concept: float = 1.25
    collapse: float = 0.5
    std_floor: float = 0.1
    std_min: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_near: float = 0.75
    failures_max: float = 0.01
    refused_warn: float = 0.01
    refused_alert: float = 0.05

    def __post_init__(self) -> None:
        # `not value >= 0` refuses NaN too, with which every comparison would be false
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name == "relative_when_worse":
                continue
            if value is not None and not value >= 0:
                raise ConfigError(
                    f"the rule {limit.name} is invalid", expected="0 or more", got=repr(value)
                )
        for name in self.relative_when_worse:
            if name not in ABSOLUTE.values():
                raise ConfigError(
                    "relative_when_worse names a limit that is not one of an error",
                    expected=f"some of {', '.join(ABSOLUTE.values())}",
                    got=name,
                )
        if not 0 < self.chance < 1:
            raise ConfigError(
                "the rule chance is invalid", expected="between 0 and 1", got=repr(self.chance)
            )
        for low, high in (("psi_warn", "psi_alert"), ("auc_warn", "auc_alert"),
                          ("missing_warn", "missing_alert"), ("range_warn", "range_alert"),
                          ("twice_warn", "twice_alert"),
                          ("refused_warn", "refused_alert")):  # fmt: skip
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(
                    f"the rules {low} and {high} contradict each other",
                    expected=f"{low} at most {high}",
                    got=f"{getattr(self, low)} and {getattr(self, high)}",
                )

    def changed(self, values: Mapping[str, Any]) -> Thresholds:
        """Return these limits with some of them set by a user; see `overridden`."""
        names = ("relative_when_worse",)
        return replace(self, **overridden({name: getattr(self, name) for name in names}, values))


def overridden(limits: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits by name with some of them set by a user.

    A limit that a user sets holds as it is: it leaves `relative_when_worse`, unless the user sets
    that too.
    """
    # an explicit limit must not give way to the model's own figure
    way = [name for name in limits.get("relative_when_worse", ()) if name not in values]
    return {**limits, "relative_when_worse": tuple(way), **values}


@dataclass(frozen=True)
class WatchSettings:
    """How a service is watched.

    Attributes:
        interval_s: Seconds between two rounds.
        window_s: Seconds that a window looks back.
        limits: From where on a number is a warning or an alert.
        alerts: What becomes an alert.
        routes: Where notices go, by name; ``log`` is always there.
        metrics_port: Where Prometheus reads the last verdict; null for nowhere.
        metrics_host: Address of that port.
    """

    interval_s: float = 300.0
    window_s: float = DAY
    limits: Thresholds = field(default_factory=Thresholds)
    alerts: tuple[AlertRule, ...] = DEFAULT_RULES
    routes: Mapping[str, RouteSettings] = field(default_factory=dict)
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    def with_routes(self, routes: Mapping[str, RouteSettings]) -> WatchSettings:
        """Return the same with more routes; one that is here under the same name stays."""
        return replace(self, routes={**routes, **self.routes})

    @property
    def reached(self) -> tuple[str, ...]:
        """Whom notices reach: every route but the log that some rule takes, described."""
        taken = {name for rule in self.alerts for name in (rule.routes or tuple(self.routes))}
        return tuple(
            described(name, route)
            for name, route in self.routes.items()
            if name in taken and route.kind != "log"
        )


PREFIX = "TASADOR_ALERTS__"
#: Each variable, and what it is.
VARIABLES = {
    "WEBHOOK_URL": "address to which notices are posted as JSON",
    "WEBHOOK_SECRET": "signs them (HMAC-SHA256); optional",
    "SLACK_URL": "incoming webhook of Slack, Mattermost or the like",
    "EMAIL_URL": "mail server, smtp://host:port or smtps://host:port",
    "EMAIL_FROM": "address that e-mails come from",
    "EMAIL_TO": "addresses that they go to, separated by commas",
    "EMAIL_USER": "name at the mail server; optional",
    "EMAIL_PASSWORD": "password there; optional",
    "WANDB_PROJECT": "project of Weights & Biases; offline unless WANDB_MODE=online",
    "APPRISE_URL": "any other service, in Apprise's form: tgram://token/chat, ntfy://topic...",
}


def routes_from(environment: Mapping[str, str]) -> dict[str, RouteSettings]:
    """Return the routes that TASADOR_ALERTS__* name; an empty text is one that is not set.

    Raises:
        ConfigError: A variable sets nothing, or an address is invalid; no value is in the message.
    """
    given = {
        name.removeprefix(PREFIX): text.strip()
        for name, text in environment.items()
        if name.startswith(PREFIX)
    }
    for name in given:
        if name not in VARIABLES:
            known = [PREFIX + one for one in VARIABLES]
            raise InvalidSettingError.unknown(PREFIX + name, PREFIX + name, known)
    # compose passes every variable on, set or not
    given = {name: text for name, text in given.items() if text}
    for name in given:
        kind = name.partition("_")[0]
        needed = f"{kind}_PROJECT" if kind == "WANDB" else f"{kind}_URL"
        if needed not in given:
            raise ConfigError(f"{PREFIX}{name} sets nothing without {PREFIX}{needed}")
    routes = {}
    if "WEBHOOK_URL" in given:
        secret = given.get("WEBHOOK_SECRET", "")
        routes["webhook"] = RouteSettings("webhook", given["WEBHOOK_URL"], secret)
    if "SLACK_URL" in given:
        routes["slack"] = RouteSettings("slack", given["SLACK_URL"])
    if "EMAIL_URL" in given:
        recipients = tuple(
            one.strip() for one in given.get("EMAIL_TO", "").split(",") if one.strip()
        )
        routes["email"] = RouteSettings(
            "email", _with_login(given), sender=given.get("EMAIL_FROM", ""), recipients=recipients
        )
    if "APPRISE_URL" in given:
        routes["apprise"] = RouteSettings("apprise", given["APPRISE_URL"])
    if "WANDB_PROJECT" in given:
        routes["wandb"] = RouteSettings("wandb", project=given["WANDB_PROJECT"])
    return routes


def _with_login(given: Mapping[str, str]) -> str:
    url, user = given["EMAIL_URL"], given.get("EMAIL_USER")
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"{PREFIX}EMAIL_URL holds a name or a password",
            expected="smtp://host:port or smtps://host:port",
            remedy=f"put them into {PREFIX}EMAIL_USER and {PREFIX}EMAIL_PASSWORD",
        )
    if user is None:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(user, '')}:{quote(given.get('EMAIL_PASSWORD', ''), '')}@{rest}"


def whom_alerts_reach(reached: Sequence[str]) -> str:
    """Return a sentence about the routes that notices take, or about what to set."""
    if reached:
        return f"alerts reach {', '.join(reached)}"
    wanted = ", ".join(PREFIX + name for name in ("SLACK_URL", "WEBHOOK_URL", "EMAIL_URL"))
    return f"alerts reach nobody: set one of {wanted} or {PREFIX}WANDB_PROJECT"


#: Names a file that is read where a command is given none.
FILE = "TASADOR_WATCH__CONFIG"
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def read_watch_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None
) -> WatchSettings:
    """Return the settings that ship in ``conf/watch.yaml``, changed by `file` and by variables.

    Of `limits` the file changes those that it names, everything else it replaces.
    ``${NAME}`` in a text of the file is replaced by an environment variable, so that secrets
    stay out of files. A route of the file replaces the one that TASADOR_ALERTS__* make of that
    name.

    Args:
        file: YAML; None takes the one that TASADOR_WATCH__CONFIG names, if it names one.
        environment: The variables; this process's when None.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, a value is invalid, or a variable is
            not set or sets nothing.
    """
    environment = os.environ if environment is None else environment
    plain = yaml.safe_load(shipped_file())
    routes: dict[str, Any] = dict(routes_from(environment))
    if file is None and environment.get(FILE):
        file = Path(environment[FILE])
    if file is not None:
        own = _filled(_read(file), file, environment)
        if not isinstance(own, dict):
            raise ConfigError(
                f"{file} holds no settings", expected="keys such as limits: and routes:"
            )
        limits = own.get("limits", {})
        if isinstance(limits, dict):
            own["limits"] = overridden(plain["limits"], limits)
        plain |= own
    # routes of variables are added last: their addresses must not appear in messages of `build`
    found = build(WatchSettings, plain, "watch")
    return found.with_routes(routes)


def shipped_file() -> str:
    """Return the text of ``conf/watch.yaml``."""
    return resources.files("tasador").joinpath("conf", "watch.yaml").read_text("utf-8")


def _read(file: Path) -> Any:
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-02-30
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    return {} if plain is None else plain


def _filled(value: Any, file: Path, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, file, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, file, environment) for item in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: _variable(match[1], file, environment), value)


def _variable(name: str, file: Path, environment: Mapping[str, str]) -> str:
    found = environment.get(name)
    if found is None:
        raise ConfigError(f"{file} asks for the environment variable {name}, which is not set")
    return found
