"""`WatchSettings`: how a service is watched; from ``conf/watch.yaml``, files and variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from tasador.core.errors import ConfigError
from tasador.monitoring.alerts import DEFAULT_RULES, AlertRule
from tasador.monitoring.notifications import RouteSettings, described
from tasador.monitoring.thresholds import Thresholds, overridden
from tasador.settings.validation import InvalidSettingError, build

DAY = 86_400.0


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
    except yaml.YAMLError as error:
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
