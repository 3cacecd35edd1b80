"""Notices reach real receivers, signed; a broken route neither stops others nor loses anything."""

from __future__ import annotations

import hashlib
import hmac
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fixtures.receiver import Receiver
from fixtures.wandb_files import runs_of
from tasador.core.errors import ConfigError, MissingExtraError, StorageError
from tasador.monitoring.alerts import AlertBook, AlertRule, Notification
from tasador.monitoring.notifications import (
    AppriseRoute,
    EmailRoute,
    RouteSettings,
    SlackRoute,
    WandbRoute,
    WebhookRoute,
    build_routes,
    check_routes,
    deliver,
    described,
)
from tasador.monitoring.settings import routes_from
from tasador.monitoring.verdict import Finding, Verdict
from tasador.records.database import Database

NOTICE = Notification(
    "n-1", "firing", "m/drift/drift:income", "m", "drift", "page", "drift", "income",
    "PSI <0.4> & rising", 10.0, 20.0, {"psi": 0.4},
)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def test_a_webhook_is_signed_so_that_its_receiver_can_trust_it(receiver) -> None:
    WebhookRoute(RouteSettings("webhook", receiver.url, secret="s3cret")).send(NOTICE)
    ((headers, body),) = receiver.got
    moment, digest = headers["x-tasador-signature"].split(",")
    signed = f"{moment.removeprefix('t=')}.".encode() + body
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert digest == f"v1={expected}"
    assert headers["idempotency-key"] == "n-1"
    plain = json.loads(body)
    assert (plain["event"], plain["subject"], plain["numbers"]) == (
        "firing",
        "income",
        {"psi": 0.4},
    )
    assert plain["title"] == "[ALERT] m: drift income"


def test_a_receiver_that_stumbles_is_tried_again(receiver) -> None:
    receiver.answers = [503, 429]
    WebhookRoute(RouteSettings("webhook", receiver.url)).send(NOTICE)
    assert len(receiver.got) == 3
    assert "x-tasador-signature" not in receiver.got[0][0]


def test_a_receiver_that_refuses_is_not_tried_again_and_its_path_stays_secret(receiver) -> None:
    receiver.answers = [400]
    with pytest.raises(StorageError, match="did not take a notification") as caught:
        WebhookRoute(RouteSettings("webhook", receiver.url)).send(NOTICE)
    assert len(receiver.got) == 1
    assert "secret-path" not in str(caught.value)


def test_slack_gets_text_that_cannot_be_markup(receiver) -> None:
    SlackRoute(RouteSettings("slack", receiver.url)).send(NOTICE)
    plain = json.loads(receiver.got[0][1])
    assert plain["text"] == "*[ALERT] m: drift income*\nPSI &lt;0.4&gt; &amp; rising"
    assert plain["blocks"][0]["text"]["text"] == plain["text"]


HOSTILE = replace(
    NOTICE,
    subject="<!channel> *b*",
    reason="<http://evil.example|click>\r\nBcc: all@example.org \x1b[31m",
)


def test_hostile_names_are_text_in_slack_and_in_e_mails(receiver) -> None:
    SlackRoute(RouteSettings("slack", receiver.url)).send(HOSTILE)
    plain = json.loads(receiver.got[0][1])
    for text in (plain["text"], plain["blocks"][0]["text"]["text"]):
        assert not set("<>\x1b\r") & set(text)
        assert "&lt;!channel&gt;" in text
        assert " *b*" not in text
    assert plain["unfurl_links"] is False
    assert plain["unfurl_media"] is False
    for subject in ("a\r\nBcc: all@example.org", "a\nb", "\u2028x"):
        text = _mailed(replace(HOSTILE, subject=subject))
        head = text.partition("\r\n\r\n")[0]
        assert "\nBcc" not in head
        assert "\x1b" not in text


def test_a_redirected_webhook_is_not_followed(receiver) -> None:
    receiver.answers = [302]
    with pytest.raises(StorageError, match="answers 302"):
        WebhookRoute(RouteSettings("webhook", receiver.url)).send(NOTICE)
    assert len(receiver.got) == 1


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs."""

    def handle(self) -> None:
        say = lambda text: self.wfile.write(f"{text}\r\n".encode())  # noqa: E731
        say("220 test")
        while line := self.rfile.readline():
            word = line.decode().strip().upper()
            if word == "DATA":
                say("354 go on")
                while (part := self.rfile.readline()) != b".\r\n":
                    self.server.mail.append(part.decode())  # type: ignore[attr-defined]
                say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


def _mailed(notice: Notification) -> str:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail) as server:
        server.mail = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"smtp://127.0.0.1:{server.server_address[1]}"
        settings = RouteSettings(
            "email", url, sender="a@example.org", recipients=("b@example.org",)
        )
        EmailRoute(settings).send(notice)
        server.shutdown()
    return "".join(server.mail)  # type: ignore[attr-defined]


def test_an_e_mail_says_what_happened() -> None:
    text = _mailed(NOTICE)
    assert "Subject: [ALERT] m: drift income" in text
    assert "To: b@example.org" in text
    assert "PSI <0.4> & rising" in text


def test_a_mail_server_that_is_unreachable_is_named() -> None:
    settings = RouteSettings(
        "email", "smtp://127.0.0.1:1", sender="a@example.org", recipients=("b@example.org",)
    )
    with pytest.raises(StorageError, match=r"mail server 127\.0\.0\.1"):
        EmailRoute(settings).send(NOTICE)


def test_w_and_b_gets_alerts_and_each_round_in_one_run_without_an_account(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    route = build_routes({"w": RouteSettings("wandb", project="houses")}, tmp_path)["w"]
    assert isinstance(route, WandbRoute)
    route.send(NOTICE)
    route.log({"drift/income": 0.4, "business/mape": 12.5, "latency/p50_ms": float("nan")})
    route.close()
    (run,) = runs_of(tmp_path)
    assert (run["job_type"], run["project"]) == ("monitor", "houses")
    assert run["alerts"] == [("[ALERT] m: drift income", "PSI <0.4> & rising", "ERROR")]
    (line,) = run["history"]
    assert (line["drift/income"], line["business/mape"]) == (0.4, 12.5)
    assert "latency/p50_ms" not in line


def test_a_route_of_w_and_b_without_the_library_is_refused_before_anything_is_watched(
    monkeypatch,
) -> None:
    monkeypatch.setattr("tasador.registry.wandb_runs.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="'wandb' is not installed"):
        build_routes({"w": RouteSettings("wandb")})


def test_a_route_of_w_and_b_says_that_it_is_offline_unless_it_is_not(monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert described("w", RouteSettings("wandb")) == "w (offline: `wandb sync`)"
    assert described("w", RouteSettings("wandb", mode="online")) == "w"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert described("w", RouteSettings("wandb")) == "w"


def test_what_a_route_is_described_as_holds_no_secret() -> None:
    settings = RouteSettings("webhook", "https://example.org/hook/path", secret="s3cret")
    assert "path" not in repr(settings)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "webhook"},
        {"kind": "slack", "url": "ftp://x"},
        {"kind": "email", "url": "http://x"},
        {"kind": "email", "url": "smtp://x"},
    ],
)
def test_an_invalid_route_is_refused(settings) -> None:
    with pytest.raises(ConfigError, match="a route of kind"):
        RouteSettings(**settings)


def fired(database: Database, *routes: str) -> AlertBook:
    book = AlertBook(database, (AlertRule("drift", ("drift",), after=1, routes=routes),))
    finding = Finding("drift", "income", "alert", "bad")
    book.observe("m", Verdict("alert", 1, "m", 1, "", findings=(finding,)))
    return book


def test_a_broken_route_keeps_its_notices_and_stops_no_other(tmp_path, receiver) -> None:
    with Database.open(f"sqlite:///{tmp_path / 'a.db'}") as database:
        book = fired(database, "dead", "hook", "log")
        routes = build_routes(
            {
                "dead": RouteSettings("webhook", "http://127.0.0.1:1/x", timeout_s=0.2),
                "hook": RouteSettings("webhook", receiver.url),
            }
        )
        (problem,) = deliver(book, routes)
        assert problem.startswith("route dead: the webhook at http://127.0.0.1")
        assert len(receiver.got) == 1
        assert [route for _, route, _ in book.outbox()] == ["dead"]
        routes["dead"] = routes["hook"]  # it came back
        assert deliver(book, routes) == []
        assert len(receiver.got) == 2
        assert list(book.outbox()) == []


def test_a_route_that_went_away_is_reported_once(tmp_path) -> None:
    with Database.open(f"sqlite:///{tmp_path / 'a.db'}") as database:
        book = fired(database, "gone")
        assert deliver(book, build_routes({})) == [
            "no route is called 'gone': a notice about m/drift/drift:income is dropped"
        ]
        assert deliver(book, build_routes({})) == []


def test_a_rule_that_names_no_route_is_refused() -> None:
    with pytest.raises(ConfigError, match="names the route 'pager'"):
        check_routes([AlertRule("x", routes=("pager",))], build_routes({}))


def test_any_service_that_apprise_knows_gets_a_notice_by_its_address_alone(receiver) -> None:
    address = receiver.url.replace("http://", "json://")
    route = build_routes({"phone": RouteSettings("apprise", address)})["phone"]
    route.send(NOTICE)
    ((_, body),) = receiver.got
    plain = json.loads(body)
    assert (plain["title"], plain["message"]) == ("[ALERT] m: drift income", "PSI <0.4> & rising")


def test_a_service_behind_apprise_that_is_down_keeps_the_notice_for_later() -> None:
    word = "s3cret"
    settings = RouteSettings("apprise", f"json://user:{word}@127.0.0.1:9", timeout_s=1.0)
    with pytest.raises(StorageError, match="the service behind Apprise did not take") as caught:
        AppriseRoute(settings).send(NOTICE)
    assert word not in str(caught.value)


def test_an_address_that_apprise_does_not_know_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match=r"ntfy://topic, got an address of 16 char") as caught:
        AppriseRoute(RouteSettings("apprise", "nonsense://s3cre"))
    assert "s3cre" not in str(caught.value)
    assert routes_from({"TASADOR_ALERTS__APPRISE_URL": "ntfy://t"})["apprise"].url == "ntfy://t"


def test_without_apprise_the_route_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtraError, match="'apprise' is not installed"):
        AppriseRoute(RouteSettings("apprise", "ntfy://topic"))
