"""Routes: where notices go. A route that fails keeps its notices for the next round."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import smtplib
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, Protocol

from tasador.core import clock, escape
from tasador.core.deadlines import BoundedCaller, Deadline, retry_context
from tasador.core.errors import ConfigError, DeadlineError, MissingExtraError, StorageError
from tasador.core.http import Patience, opened
from tasador.monitoring.alerts import AlertBook, Notification
from tasador.registry.wandb_runs import Mode, MonitorRun, WandbRuns, check_installed, online

log = logging.getLogger(__name__)

_ATTEMPTS = 3
#: Where only single reads have a timeout, a notice may take this many times it in all.
_FACTOR = 4
#: Answers of a receiver after which another try may go better.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


_WEB = ("http", "https")
#: Of the kinds that need an address: its schemes.
_SCHEMES = {"webhook": _WEB, "slack": _WEB, "email": ("smtp", "smtps")}


def no_address(kind: str, expected: str, url: str) -> ConfigError:
    """Return the error of a route whose address is of no use; the address is not in it."""
    return ConfigError(
        f"a route of kind {kind} has no address",
        expected=f"url: {expected}",
        got=f"an address of {len(url)} characters",
    )


@dataclass(frozen=True)
class RouteSettings:
    """One way out.

    Attributes:
        kind: ``log``, ``webhook`` (signed JSON), ``slack`` (JSON that Slack and its likes show),
            ``email``, ``wandb``, or ``apprise`` for any service that the library Apprise knows.
        url: Of the webhook; ``smtp://user:password@host:port`` or ``smtps://`` for e-mail; one of
            Apprise's addresses, e.g. ``tgram://token/chat`` or ``ntfy://topic``.
        secret: Signs webhooks; empty for no signature.
        sender: Address that e-mails come from.
        recipients: Addresses that they go to.
        project: Of W&B.
        mode: Of W&B: ``offline`` (a folder, for ``wandb sync``) or ``online``; WANDB_MODE decides
            where it is set.
        timeout_s: Seconds for one try.
    """

    kind: Literal["log", "webhook", "slack", "email", "wandb", "apprise"]
    url: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    sender: str = ""
    recipients: tuple[str, ...] = ()
    project: str = "tasador"
    mode: Literal["offline", "online"] = "offline"
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        schemes = _SCHEMES.get(self.kind)
        if schemes and urllib.parse.urlsplit(self.url).scheme not in schemes:
            raise no_address(self.kind, f"{schemes[1]}://...", self.url)
        if self.kind == "email" and not (self.sender and self.recipients):
            raise ConfigError("a route of kind email needs sender and recipients")


def described(name: str, settings: RouteSettings) -> str:
    """Return a route as people are shown it, without its address."""
    if settings.kind == "wandb" and not online(settings.mode):
        return f"{name} (offline: `wandb sync`)"
    return name


class NotDeliveredError(StorageError):
    """A receiver did not take a notification, which is kept for the next round."""

    @classmethod
    def of(cls, receiver: str, error: Exception) -> NotDeliveredError:
        """Return the error of a receiver."""
        return cls(
            f"the {receiver} did not take a notification",
            got=str(error),
            remedy="check its address; the notification is kept and sent again",
        )


class Route(Protocol):
    """Sends notices somewhere."""

    def send(self, notice: Notification) -> None:
        """Send one notice.

        Raises:
            StorageError: It was not taken; another try may go better later.
        """


class LogRoute:
    """Writes notices to the log."""

    def send(self, notice: Notification) -> None:
        """Log one notice, a resolved one less loudly."""
        level = logging.INFO if notice.event == "resolved" else logging.WARNING
        fields = {"alert": notice.key, "event": notice.event, "severity": notice.severity}
        log.log(level, "%s: %s", notice.title, notice.reason, extra={"fields": fields})


class _RefusedError(OSError):
    """A receiver did not take a notice; a redirection is not followed: it would lose the body."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answers {status}")
        self.status = status


class WebhookRoute:
    """Posts notices as JSON.

    ``X-Tasador-Signature: t=<seconds>,v1=<hex>`` is the HMAC-SHA256, under the shared secret, of
    ``<seconds>.<body>``: the receiver recomputes it and refuses old times. ``Idempotency-Key``
    repeats the notice's id.
    """

    def __init__(self, settings: RouteSettings) -> None:
        self._settings = settings

    def send(self, notice: Notification) -> None:
        """Post one notice, three times at most.

        Raises:
            StorageError: The receiver cannot be reached or refuses.
        """
        body = json.dumps(self.body(notice)).encode()
        # sent at least once: the receiver drops a repetition by the key
        headers = {"content-type": "application/json", "idempotency-key": notice.id}
        if self._settings.secret:
            headers["x-tasador-signature"] = signature(self._settings.secret, body, clock.seconds())
        request = urllib.request.Request(self._settings.url, body, headers)  # noqa: S310 - checked
        try:
            for attempt in retry_context(
                on=_is_transient, attempts=_ATTEMPTS, wait_initial=0.2, wait_max=2.0, timeout=15.0
            ):
                with attempt:
                    self._post(request)
        except (OSError, HTTPException, DeadlineError) as error:
            raise NotDeliveredError.of(f"webhook at {_shown(self._settings.url)}", error) from None

    def body(self, notice: Notification) -> dict[str, Any]:
        """Return what is posted."""
        return notice.to_dict()

    def _post(self, request: urllib.request.Request) -> None:
        seconds = self._settings.timeout_s
        with opened(request, Patience(seconds, seconds, Deadline.after(3 * seconds))) as answer:
            if not 200 <= answer.status < 300:
                raise _RefusedError(answer.status)


class SlackRoute(WebhookRoute):
    """Posts notices in the form that Slack's incoming webhooks, and their likes, show."""

    def body(self, notice: Notification) -> dict[str, Any]:
        """Return what is posted."""
        text = f"*{escape.slack(notice.title)}*\n{escape.slack(notice.reason)}"
        return {
            "text": text, "unfurl_links": False, "unfurl_media": False,
            "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}],
        }  # fmt: skip


class EmailRoute:
    """Sends notices as plain e-mails."""

    def __init__(self, settings: RouteSettings) -> None:
        self._settings = settings
        self._caller = BoundedCaller("the mail server")

    def send(self, notice: Notification) -> None:
        """Send one e-mail.

        Raises:
            StorageError: The mail server cannot be reached or refuses.
        """
        settings, parts = self._settings, urllib.parse.urlsplit(self._settings.url)
        message = EmailMessage()
        message["Subject"] = escape.one_line(notice.title)[:200]
        message["From"], message["To"] = settings.sender, ", ".join(settings.recipients)
        message["Message-ID"] = f"<{notice.id}@tasador>"
        whole = json.dumps(notice.to_dict(), indent=2, ensure_ascii=False)
        message.set_content(f"{escape.lines(notice.reason)}\n\n{escape.lines(whole)}\n")
        host = parts.hostname or "localhost"
        try:
            # a server that trickles restarts the timeout of every read
            limit = Deadline.after(_FACTOR * settings.timeout_s)
            self._caller.call(lambda: self._hand_over(message), limit)
        except (OSError, smtplib.SMTPException, DeadlineError) as error:
            raise NotDeliveredError.of(f"mail server {host}", error) from None

    def _hand_over(self, message: EmailMessage) -> None:
        parts, timeout = urllib.parse.urlsplit(self._settings.url), self._settings.timeout_s
        host = parts.hostname or "localhost"
        with (
            smtplib.SMTP_SSL(
                host, parts.port or 465, timeout=timeout, context=ssl.create_default_context()
            )
            if parts.scheme == "smtps"
            else smtplib.SMTP(host, parts.port or 25, timeout=timeout)
        ) as server:
            if parts.username:
                if parts.scheme == "smtp":  # a password never travels in the clear
                    server.starttls(context=ssl.create_default_context())
                server.login(
                    urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
                )
            server.send_message(message)


class AppriseRoute:
    """Sends notices to one of the services that the library Apprise knows.

    Raises:
        MissingExtraError: Apprise is not installed.
        ConfigError: The address is none of its.
    """

    def __init__(self, settings: RouteSettings) -> None:
        try:
            import apprise
        except ImportError as error:
            raise MissingExtraError.for_package("apprise", "alerts") from error
        self._settings, self._service = settings, apprise.Apprise()
        self._caller = BoundedCaller("the service behind Apprise")
        if not self._service.add(settings.url):
            raise no_address("apprise", "one of Apprise's, e.g. ntfy://topic", settings.url)

    def send(self, notice: Notification) -> None:
        """Send one notice.

        Raises:
            StorageError: The service cannot be reached or refuses.
        """
        title, text = escape.one_line(notice.title)[:200], escape.lines(notice.reason)
        try:
            limit = Deadline.after(_FACTOR * self._settings.timeout_s)
            taken = self._caller.call(
                lambda: self._service.notify(body=text, title=title, body_format="text"), limit
            )
            if not taken:
                raise OSError("Apprise logs why")
        except (OSError, DeadlineError) as error:
            raise NotDeliveredError.of("service behind Apprise", error) from None


class WandbRoute:
    """Sends notices as alerts of a Weights & Biases run, and there what each round found.

    Args:
        settings: Which project, and whether offline.
        folder: Offline runs lie under its ``wandb``.

    Raises:
        MissingExtraError: W&B is not installed.
    """

    def __init__(self, settings: RouteSettings, folder: Path) -> None:
        check_installed()
        mode: Mode = "online" if online(settings.mode) else "offline"
        self._run = MonitorRun(WandbRuns(settings.project, folder, mode))

    def send(self, notice: Notification) -> None:
        """Send one alert.

        Raises:
            MissingExtraError: W&B is not installed.
            StorageError: W&B refuses.
        """
        title, text = escape.one_line(notice.title), escape.lines(notice.reason)
        self._run.alert(title, text, urgent=notice.severity == "page")

    def log(self, values: Mapping[str, float]) -> None:
        """Record a round's numbers; raises as `send` does."""
        self._run.log(values)

    def close(self) -> None:
        """End the run."""
        self._run.close()


_KINDS: Mapping[str, Any] = {
    "webhook": WebhookRoute,
    "slack": SlackRoute,
    "email": EmailRoute,
    "apprise": AppriseRoute,
}


def build_routes(
    settings: Mapping[str, RouteSettings], folder: Path | None = None
) -> dict[str, Route]:
    """Return the routes by name; ``log`` is always there.

    Args:
        settings: How each is meant.
        folder: Offline runs of W&B lie under its ``wandb``; the current folder's when None.
    """
    routes: dict[str, Route] = {"log": LogRoute()}
    for name, one in settings.items():
        if one.kind == "wandb":
            routes[name] = WandbRoute(one, folder or Path())
        else:
            routes[name] = LogRoute() if one.kind == "log" else _KINDS[one.kind](one)
    return routes


def deliver(book: AlertBook, routes: Mapping[str, Route]) -> list[str]:
    """Send what waits in the outbox; returns what went wrong, in words.

    One failing route does not keep notices from the others. A notice is sent at least once: a
    watcher that dies between sending and noting it sends it again, with the same id.
    """
    problems: list[str] = []
    broken: set[str] = set()
    for state, name, notice in list(book.outbox()):
        # one try a round: a receiver that is down would otherwise hold the round for every message
        if name in broken:
            continue
        route = routes.get(name)
        if route is None:
            problems.append(f"no route is called {name!r}: a notice about {state.key} is dropped")
        else:
            try:
                route.send(notice)
            except (StorageError, MissingExtraError) as error:
                broken.add(name)
                problems.append(f"route {name}: {error}")
                continue
        book.sent(state.key, name, notice.id)
    return problems


def signature(secret: str, body: bytes, now: float) -> str:
    """Return the signature's header for a body sent `now`, in seconds since the epoch."""
    moment = str(int(now))
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def check_routes(rules: Sequence[Any], routes: Mapping[str, Route]) -> None:
    """Refuse rules that name a route that is not there.

    Raises:
        ConfigError: One does.
    """
    for rule in rules:
        for name in rule.routes:
            if name not in routes:
                raise ConfigError(
                    f"the alert rule {rule.name!r} names the route {name!r}",
                    expected=f"one of {', '.join(routes)}",
                )


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _RefusedError):
        return error.status in _TRANSIENT
    return isinstance(error, (OSError, HTTPException, DeadlineError))


def _shown(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"  # paths of webhooks are secrets
