"""Where notices of alerts go, by environment variables; and the words for whom they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from tasador.config.build import unknown
from tasador.core.errors import ConfigError
from tasador.monitoring.notices import RouteSettings

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
            raise unknown(PREFIX + name, PREFIX + name, [PREFIX + known for known in VARIABLES])
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
