"""Health, Models and Report in a real Chromium, in both languages, over a service with a past."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from fixtures.service import running_service
from tasador.core import clock
from tasador.core.errors import TasadorError
from tasador.core.hashing import to_plain
from tasador.lifecycle.errors import GatesRefuseError, NotAllowedError
from tasador.lifecycle.gates import GateReport, decided, not_worse, ratios_not_worse
from tasador.monitoring.alerts import AlertBook, AlertRule
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import build_reference
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.window import Window
from tasador.ops.service import alert_actions
from tasador.records.audit_log import AuditTrail, Verdicts
from tasador.records.database import Database
from tasador.records.shared_state import AlertStates
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.serving.api.models import Lifecycle, Promotion, card_router, lifecycle_router
from tasador.serving.api.monitoring import MonitoringReader, alerts_router, monitoring_router
from tasador.settings.run import GateSettings
from tasador.settings.serving import RecordSettings, SecuritySettings

from .conftest import App, start_app
from .test_web_app import text_of

HOUR = 3600.0
REPORT = "<!doctype html><title>Run</title><h1>Run of houses</h1>" + "<p>A step.</p>" * 120
#: Words that English sentences have and Spanish ones do not.
ENGLISH = re.compile(
    r"\b(the|is|are|was|of|and|with|than|not|this|that|from|rows?|worse|better|values?|missing"
    r"|outcomes?|limit|needed|champion|passes|fails|since|until|alert|warning)\b",
    re.IGNORECASE,
)


@dataclass
class World:
    """What a service with a history says: a fake registry, real verdicts, alerts and gates."""

    url: str = ""
    records: str = ""
    champion: str = "1"
    entries: list[dict[str, object]] = field(default_factory=list)
    asked: list[Promotion] = field(default_factory=list)
    bundle: str = ""
    refused: TasadorError | None = None

    def versions(self) -> dict[str, object]:
        return {
            "model": "houses_model", "follows": "champion", "notes": [],
            "versions": [self._version(number) for number in ("3", "2", "1")],
        }  # fmt: skip

    def _version(self, number: str) -> dict[str, object]:
        mape = {"1": 14.2, "2": 13.1, "3": 15.9}[number]
        return {
            "number": number, "release": f"1.{number}.0",
            "bundle": self.bundle if number == "1" else f"houses_model-00000000000{number}",
            "created": f"2026-11-2{number}T10:30:00Z",
            "status": "rejected" if number == "3" else "",
            "aliases": ["champion"] if number == self.champion else [],
            "origin": "real", "run": f"20261121-10300{number}-aaaa", "commit": "", "unit": "USD",
            "metrics": {"mape": mape, "mae": 23456.7, "r2": 0.87, "within_10": 45.0},
            "intervals": {"mape": [mape - 0.8, mape + 0.9]},
            "segments": {kind: {"mape": mape + i} for i, kind in enumerate(("flat", "house"))},
        }  # fmt: skip

    def promote(self, request: Promotion, who: str) -> dict[str, object]:
        self.asked.append(request)
        report = gate_report()
        self._note(request.version, "done" if request.force else "refused", request.reason, report)
        if not request.force:
            bad = [f"{one.name}: {one.text}" for one in report.gates if one.state != "pass"]
            raise GatesRefuseError.of(request.version, request.alias, bad)
        before, self.champion = self.champion, request.version
        return {"version": request.version, "before": before, "after": self.champion}

    def _note(self, version: str, phase: str, reason: str, report: GateReport) -> None:
        details = {"version": version, "phase": phase, "gates": to_plain(report)}
        entry = {
            "time": clock.seconds(), "actor": "api key ana", "action": "promote",
            "from_value": "1", "to_value": "1", "reason": reason, "details": details,
        }  # fmt: skip
        self.entries.insert(0, entry)

    def rollback(self, request: object, who: str) -> dict[str, object]:
        raise NotAllowedError.no_earlier("houses_model", self.champion)


def gate_report() -> GateReport:
    random = np.random.default_rng(3)
    actual = random.lognormal(12.0, 0.4, 400)
    old = actual * np.exp(random.normal(0, 0.10, 400))
    new = actual * np.exp(random.normal(0, 0.14, 400))
    settings = GateSettings(draws=200)
    gates = (
        decided("bundle size", True, "1.2 MiB (limit 200)"),
        *not_worse(actual, new, old, settings),
        *ratios_not_worse(actual, new, old, settings),
    )
    return GateReport("houses_model-000000000002", "houses_model-000000000001", "", gates)


def store_verdicts(bundle: ModelBundle, X: np.ndarray, price: np.ndarray, records: str) -> None:
    """Six evaluations: usual ones, then one of rows whose incomes were made larger."""
    predicted = bundle.predict(X)
    reference = build_reference(
        bundle.contract.features, X, prediction=predicted, actual=price, log=True,
        coverage=0.9,
    )  # fmt: skip
    now, names = clock.seconds(), bundle.contract.feature_names
    changed = X[:200].copy()
    changed[:, 2] *= 3.0
    changed[:60, 3] = np.nan
    windows = [(X[:200], price[:200])] * 5 + [(changed, price[:200])]
    rules = (AlertRule("drift", ("drift", "quality", "performance"), after=1, clear_after=1),)
    database = Database.open(records)
    book = AlertBook(database, rules)
    for place, (rows, actual) in enumerate(windows):
        estimate, lower, upper = bundle.value_arrays(rows)
        until = now - (len(windows) - 1 - place) * HOUR
        window = Window.of(
            names, rows, prediction=estimate, lower=lower, upper=upper, actual=actual,
            latency_ms=np.full(len(rows), 2.5), time=np.linspace(until - HOUR, until, len(rows)),
        )  # fmt: skip
        verdict = evaluate(reference, window, Thresholds())
        Verdicts(database).add(
            "houses_model", until - HOUR, until, verdict.level, json.loads(verdict.to_json())
        )
        book.observe("houses_model", verdict)


@pytest.fixture(scope="module")
def world(watched_bundle, house_rows, admin_key, tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("operations")
    bundle = load_bundle(watched_bundle)
    found = World(records=f"sqlite:///{folder}/watched.db", bundle=bundle.version)
    store_verdicts(bundle, *house_rows, found.records)
    reader = MonitoringReader(RecordSettings(url=found.records))
    verbs = Lifecycle(
        versions=found.versions, history=lambda limit: found.entries[:limit],
        report=lambda version: REPORT, promote=found.promote, rollback=found.rollback,
        changed=lambda: None,
    )  # fmt: skip
    found._note("3", "refused", "", gate_report())
    with running_service(
        folder, bundle, security=SecuritySettings(keys=(admin_key[1],)),
        routers=lambda service: [
            card_router(service), lifecycle_router(service, verbs),
            monitoring_router(service, reader), alerts_router(alert_actions(found.records)),
        ],
    ) as service:  # fmt: skip
        found.url = service.url
        yield found
    reader.close()


@pytest.fixture(scope="module")
def operations(world: World, admin_key) -> Iterator[App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASADOR_API_KEY", admin_key[0])
        found = start_app(world.url)
    yield found
    found.end()


WORDS = {
    "en": {
        "health": "The model is less accurate in the last 60 minutes: outcomes say so. "
        "The inputs changed too.",
        "usual": "points against usual", "alerts": "Alerts", "alert": "Quality: Rooms",
        "acknowledge": "Acknowledge", "who": "Your name", "why": "Reason", "key": "Admin key",
        "bad_key": "the API key is not known", "done": "Acknowledged: Quality: Rooms",
        "change": "Change", "version": "Version", "review": "Review…", "will": "What will happen",
        "answers": "Version 2 answers from then on", "promote": "Promote",
        "refused": "Version 2 was not promoted", "bad": "1 of the gates", "fails": "fails",
        "force": "Although a gate refuses", "promoted": "champion: 1 → 2",
        "run": "Run report", "made": "which made this model", "open": "Open in a tab",
    },
    "es": {
        "health": "El modelo acierta menos en los últimos 60 minutos: lo dicen los resultados. "
        "También cambiaron los datos de entrada.",
        "usual": "puntos sobre", "alerts": "Alertas", "alert": "Calidad: Rooms",
        "acknowledge": "Atender", "who": "Su nombre", "why": "Motivo",
        "key": "Clave de administración", "bad_key": "no se conoce esa clave de API",
        "done": "Atendida: Calidad: Rooms", "change": "Cambiar", "version": "Versión",
        "review": "Revisar…", "will": "Qué va a pasar",
        "answers": "La versión 2 responde desde ese momento", "promote": "Promover",
        "refused": "La versión 2 no se promovió", "fails": "no pasa",
        "force": "Aunque un control lo rechace", "promoted": "campeón: 1 → 2",
        "run": "Informe de la ejecución", "made": "que hizo este modelo",
        "open": "Abrir en una pestaña",
    },
}  # fmt: skip
both = pytest.mark.parametrize("lang", ["en", "es"])


@both
def test_health_tells_accuracy_from_inputs_and_an_alert_is_acknowledged(
    visit, operations, world, admin_key, lang
) -> None:
    words = WORDS[lang]
    page = visit("health", lang=lang, base=operations.url)
    page.get_by_text(words["health"]).wait_for()
    page.get_by_text(words["usual"]).wait_for()
    assert "Houses · Versi" in text_of(page)
    page.get_by_role("tab", name=words["alerts"]).click()
    page.get_by_role("tabpanel").get_by_text(words["alert"]).wait_for()
    card = page.locator(
        "[data-testid=stVerticalBlock]:has(> [data-testid=stLayoutWrapper])"
    ).filter(has_text=words["alert"])
    card.last.get_by_role("button", name=words["acknowledge"]).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(words["who"]).fill("Ana")
    dialog.get_by_label(words["why"]).fill("a new source")
    dialog.get_by_label(words["key"]).fill("wrong")
    dialog.get_by_role("button", name=words["acknowledge"]).click()
    dialog.get_by_text(words["bad_key"]).wait_for()
    assert dialog.get_by_label(words["who"]).input_value() == "Ana"
    assert dialog.get_by_label(words["why"]).input_value() == "a new source"
    dialog.get_by_label(words["key"]).fill(admin_key[0])
    dialog.get_by_role("button", name=words["acknowledge"]).click()
    page.get_by_text(words["done"]).wait_for()
    with Database.open(world.records) as database:
        seen = [one.key for one in AlertStates(database).all() if one.body.get("acknowledged_by")]
        (entry,) = AuditTrail(database).read(subject="houses_model/drift/quality:rooms", limit=1)
    assert seen == ["houses_model/drift/quality:rooms"]
    assert (entry.action, entry.actor, entry.reason) == ("acknowledge", "Ana", "a new source")


@both
def test_a_promotion_says_what_will_happen_and_a_refusal_keeps_reason_and_key(
    visit, operations, world, admin_key, lang
) -> None:
    words, world.champion = WORDS[lang], "1"
    world.asked.clear()
    page = visit("models", lang=lang, base=operations.url)
    page.get_by_role("tab", name=words["change"]).click()
    form = page.locator("[data-testid=stForm]").first
    form.get_by_role("combobox", name=words["version"]).click()
    page.get_by_role("option", name=re.compile("2$")).click()
    form.get_by_label(words["why"]).fill("better streets")
    form.get_by_label(words["key"]).fill(admin_key[0])
    form.get_by_role("button", name=words["review"]).click()
    page.get_by_text(words["answers"]).wait_for()
    assert world.asked == []  # not before it is confirmed
    page.get_by_role("button", name=words["promote"], exact=True).click()
    page.get_by_text(words["refused"]).wait_for()
    page.get_by_text(f"wMAPE · {words['fails']}").last.wait_for()
    assert form.get_by_label(words["why"]).input_value() == "better streets"
    assert form.get_by_label(words["key"]).input_value() == admin_key[0]
    assert "--force" not in text_of(page)
    form.get_by_text(words["force"]).click()
    form.get_by_role("button", name=words["review"]).click()
    page.get_by_text(words["will"]).wait_for()
    page.get_by_role("button", name=words["promote"], exact=True).click()
    page.get_by_text(words["promoted"]).wait_for()
    assert [(one.version, one.force, one.reason) for one in world.asked] == [
        ("2", False, "better streets"), ("2", True, "better streets"),
    ]  # fmt: skip


def test_versions_are_compared_and_failed_gates_come_first(visit, operations, world) -> None:
    world.champion = "1"
    page = visit("models", base=operations.url)
    page.locator(".js-plotly-plot:visible").nth(1).wait_for()  # over versions, and by segment
    assert "Version 1 · champion" in text_of(page)
    page.get_by_role("tab", name="Gates").click()
    page.locator(".js-plotly-plot:visible").first.wait_for()
    said = text_of(page)
    assert said.index("wMAPE · fails") < said.index("Bundle size · passes")


@both
def test_the_report_is_of_the_run_that_made_the_model_and_opens_in_a_tab(
    visit, operations, world, lang
) -> None:
    words = WORDS[lang]
    page = visit("report", lang=lang, base=operations.url)
    page.get_by_role("tab", name=words["run"]).click()
    page.get_by_text("20261121-103001-aaaa").wait_for()
    assert words["made"] in text_of(page)
    inside = page.frame_locator("iframe")
    inside.get_by_text("Run of houses").wait_for()
    page.wait_for_function(
        "() => { const f = document.querySelector('iframe'), d = f.contentDocument.documentElement;"
        " return d.scrollHeight <= f.clientHeight + 1; }"
    )
    with page.expect_popup() as opened:
        page.get_by_role("link", name=words["open"]).click()
    opened.value.get_by_text("Run of houses").wait_for()
    opened.value.close()


@pytest.mark.parametrize("path", ["health", "models", "report"])
def test_spanish_pages_have_no_english_sentence_and_fit_a_phone(
    visit, operations, world, path
) -> None:
    world.champion = "1"
    page = visit(path, lang="es", base=operations.url, width=390)
    page.get_by_role("tab").first.wait_for()
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(800)
        shown = page.locator("[data-testid=stMain] [role=tabpanel]:visible")
        # the card and the report are documents of their own, in English, as the page says
        said = "" if path == "report" else shown.inner_text()
        said += (
            page.locator("[data-testid=stMain] [data-testid=stAlert]").all_inner_texts().__str__()
        )
        assert ENGLISH.findall(said) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
