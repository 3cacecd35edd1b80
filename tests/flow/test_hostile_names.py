"""Names and words of a table that are markup, formulas, paths or control characters stay text."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import yaml

from fixtures.process import Server, free_port

IMAGE = "![x](http://evil.example/a.png)"
TITLE = f'{IMAGE} <img src=http://evil.example/b.png onerror=alert(1)> \u202eesrever "q" \\ a/b'
DESCRIPTION = (
    f'=cmd|"/c calc"!A1 {IMAGE} <script>alert(2)</script>\nsecond\x1b[31m line ' + "long " * 400
)
NUMBERS = {
    "income": "income",
    "markdown": f"rooms {IMAGE}",
    "markup": "<b onclick=alert(3)>area</b>",
    "label": '{label="x"}',
    "formula": "=cmd|'/c calc'!A1",
    "path": "../../etc/passwd",
    "back": 'a\\nb "quoted" %s {0} ${HOME}',
    "bidi": "\u202eeci\u202crp שלום",
    "long": "x" * 300,
}
CATEGORY = "kind|of `thing`"
LEVELS = [
    "plain", IMAGE, "<script>alert(4)</script>", '{a="b"}\nfake_metric 1', "=1+1", "a/b\\c",
    "שלום \u202edlrow", "L" * 500,
]  # fmt: skip
RUN = [
    "selection.folds=2", "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[20],"
    "num_leaves:[7]},random_forest:{n_estimators:[5]}}",
    *(f"~selection.families.{name}" for name in (
        "hist_gradient_boosting", "gradient_boosting", "extra_trees", "decision_tree", "lasso")),
    "sweep.trials=0", "sweep.slowdown=1.0", "features.cross_fit_folds=3",
    "register.parity_rows=500", "register.bootstrap_draws=20", "register.spatial_folds=2",
]  # fmt: skip


def tasador(folder: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    n = 400
    columns: dict[str, Any] = {
        name: rng.lognormal(1.0, 0.4, n).round(3) for name in NUMBERS.values()
    }
    columns[CATEGORY] = [LEVELS[i] for i in rng.integers(0, len(LEVELS), n)]
    columns["price"] = 100 * columns["income"] * rng.lognormal(0, 0.1, n)
    return pl.DataFrame(columns)


@pytest.fixture(scope="module")
def trained(table: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    table.write_parquet(folder / "table.parquet")
    number = {"kind": "number", "bounds": [0, 1000], "description": DESCRIPTION}
    contract = {
        "title": TITLE,
        "model_name": "hostile_model",
        "columns": {
            **{name: dict(number) for name in NUMBERS.values()},
            CATEGORY: {"kind": "category", "categories": LEVELS, "role": "segment",
                       "description": DESCRIPTION},
        },
        "target": {"name": "price", "unit": IMAGE[:40], "description": DESCRIPTION,
                   "bounds": [0.01, 1e6]},
        "source": {"paths": ["table.parquet"]},
    }  # fmt: skip
    place = folder / "conf" / "dataset"
    place.mkdir(parents=True)
    (place / "hostile.yaml").write_text(
        yaml.safe_dump(contract, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    code, out, err = tasador(folder, "run", "dataset=hostile", *RUN)
    assert code == 0, err
    assert "registered: models:/hostile_model/1" in out
    for control in ("\x1b[31m", "\u202e"):
        assert control not in out + err
    return folder


class Loads(HTMLParser):
    """Notes what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            # an image's alternative text and a title are shown, not loaded
            loaded = name not in ("alt", "title", "aria-label") and "evil.example" in str(value)
            if name.startswith("on") or loaded:
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script" and "alert(" in data:
            self.found.append(data)


def loads(page: str) -> list[str]:
    parser = Loads()
    parser.feed(page)
    return parser.found


def rendered(markdown: str) -> str:
    found: str = (
        pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table").render(markdown)
    )
    return found


@pytest.mark.slow
def test_cards_and_reports_show_hostile_names_as_text(trained: Path) -> None:
    (run,) = (trained / "workspace" / "runs").iterdir()
    pages = list(run.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert loads(text) == [], page
    assert "evil.example" in html.unescape((run / "report.html").read_text(encoding="utf-8"))
    cards = [*run.rglob("*.md"), *(trained / "workspace" / "bundles").rglob("*.md")]
    assert cards
    for card in cards:
        text = card.read_text(encoding="utf-8")
        assert loads(rendered(text)) == [], card
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text), card
    for file in run.rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_registry_has_every_tag_and_figure_of_a_model_with_hostile_names(trained: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{trained}/workspace/mlflow.db")
    version = client.get_model_version("hostile_model", "1")
    assert loads(rendered(version.description)) == []
    assert "evil.example" in version.description
    assert version.tags
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics
    assert run.data.params
    assert run.data.tags
    for text in (*version.tags.values(), *run.data.tags.values(), *run.data.params.values()):
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text), text


@pytest.mark.slow
def test_a_service_answers_counts_and_documents_hostile_names(
    trained: Path, table: pl.DataFrame
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    bundle = next((trained / "workspace" / "bundles").glob("*/manifest.json")).parent
    server = Server(trained / "workspace", bundle, free_port())
    server.start()
    try:
        server.wait()
        rows = table.drop("price").head(20).to_dicts()
        answer = httpx.post(server.url + "/api/v1/predict", json={"instances": rows}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == 20
        wrong = {**rows[0], CATEGORY: "no such level", NUMBERS["label"]: "word"}
        answer = httpx.post(server.url + "/api/v1/predict", json={"instances": [wrong]})
        assert answer.status_code == 422
        assert answer.json()["errors"]
        explained = httpx.post(server.url + "/api/v1/explain", json=rows[0], timeout=60)
        assert explained.status_code in (200, 404, 422), explained.text
        scored = httpx.post(
            server.url + "/api/v1/score", content=table.drop("price").write_csv(),
            headers={"content-type": "text/csv"}, timeout=60,
        )  # fmt: skip
        assert scored.status_code == 200
        assert len(scored.text.splitlines()) == table.height + 1
        families = list(text_string_to_metric_families(httpx.get(server.url + "/metrics").text))
        names = {family.name for family in families}
        assert "tasador_requests" in names or "tasador_requests_total" in names
        assert "fake_metric" not in names
        document = httpx.get(server.url + "/openapi.json").json()
        assert NUMBERS["markdown"] in json.dumps(document, ensure_ascii=False)
        page = httpx.get(server.url + "/docs")
        assert page.status_code == 200
        assert loads(page.text) == []
        card = httpx.get(server.url + "/api/v1/models/latest/card")
        assert loads(rendered(card.text)) == []
    finally:
        _, _, err = server.stop()
    for line in err.splitlines():
        if line.startswith("{"):
            json.loads(line)
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", line), line


@pytest.mark.slow
def test_files_and_monitoring_keep_hostile_names(trained: Path, table: pl.DataFrame) -> None:
    table.drop("price").write_csv(trained / "rows.csv")
    code, out, err = tasador(trained, "predict", "rows.csv")
    assert code == 0, err
    assert len(out.splitlines()) == table.height + 1
    table.with_columns(pl.col(NUMBERS["label"]) * 5).write_parquet(trained / "now.parquet")
    code, out, err = tasador(
        trained, "monitor", "--reference", "table.parquet", "--current", "now.parquet",
        "--contract", "conf/dataset/hostile.yaml", "--html", "monitor.html", "--json", "m.json",
    )  # fmt: skip
    assert code == 10, err
    assert loads((trained / "monitor.html").read_text(encoding="utf-8")) == []
    json.loads((trained / "m.json").read_text(encoding="utf-8"))
    for control in ("\x1b[31m", "\u202e"):
        assert control not in out + err
    row = json.dumps(table.drop("price").row(0, named=True))
    code, out, err = tasador(trained, "explain", row)
    assert code == 0, err
    assert "\u202e" not in out + err
