"""Errors of the commands in Spanish, where the environment asks for it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from fixtures.command_line import output_of, run_here
from fixtures.spanish import english_sentences
from tasador.core.languages import sentences, translated

REFERENCES = Path(__file__).parents[2] / "net" / "references"
HOME = '{"lon": -3.5, "lat": 40.5, "area": 90, "kind": "flat", "sold": "2024-01-31"}'
VARIABLES = ("TASADOR_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, a table, and files that are none."""
    place = tmp_path_factory.mktemp("spanish")
    shutil.copytree(REFERENCES / "bundles" / "homes", place / "model")
    homes = (REFERENCES / "tables" / "homes.csv").read_text(encoding="utf-8")
    header, *lines = homes.splitlines(keepends=True)
    (place / "homes.csv").write_text(homes, encoding="utf-8")
    (place / "header.csv").write_text(header, encoding="utf-8")
    (place / "refused.csv").write_text(header + "".join(lines[-3:]), encoding="utf-8")
    (place / "narrow.csv").write_text("lon,lat\n-3.5,40.5\n", encoding="utf-8")
    (place / "zeros.csv").write_bytes(bytes(1000))
    (place / "empty.csv").touch()
    return place


@pytest.fixture(autouse=True)
def no_language(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def home(**changed: str) -> str:
    fields = dict(part.split(": ") for part in HOME.strip("{}").split(", "))
    fields |= {f'"{name}"': value for name, value in changed.items()}
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items() if value) + "}"


USED = ("--bundle", "model")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("predict", "nowhere.csv", *USED), "no existe el archivo nowhere.csv. Qué hacer: "),
        (("predict", "zeros.csv", *USED), "se recibió datos binarios"),
        (("predict", "empty.csv", *USED), "empty.csv está vacío"),
        (("predict", "header.csv", *USED), "se esperaba al menos una fila"),
        (("predict", "narrow.csv", *USED), "faltan columnas del contrato"),
        (("predict", "refused.csv", *USED), "fila 3: area: se esperaba un número entre 5 y 2000"),
        (("predict", "homes.csv", *USED, "-o", "a.csv"), "rechazadas: 14 filas; la columna"),
        (("predict", "homes.csv", *USED, "--with", "no"), "no hay ninguna columna 'no'"),
        (("predict", "homes.csv"), "no hay ningún modelo en workspace/bundles"),
        (("predict", "{area: 90}", *USED), "no es JSON válido: se esperaba un nombre"),
        (("predict",), "falta el argumento 'ROWS'"),
        (("explain", home(area="-1"), *USED), "el campo 'area' no es válido: se esperaba"),
        (("explain", home(area='"much"'), *USED), "se recibió 'much'"),
        (("explain", home(kind='"hut"'), *USED), "uno de flat, house, villa, se recibió 'hut'"),
        (("explain", home(area=""), *USED), "falta el campo 'area'"),
        (("explain", home(area="", lat="90"), *USED), "2 campos no son válidos: lat: "),
        (("score", "no*.csv", "-o", "b.csv", *USED), "ningún archivo se llama no*.csv"),
        (("init", "homes.csv", "--target", "worth"), "no hay ninguna columna 'worth'"),
        (("run", "dataset=castles"), "conjunto de datos desconocido: 'castles'"),
        (("run", "sweep.trails=3"), "sweep.trails: ajuste desconocido: se esperaba uno de"),
        (("simulate", "--url", "http://127.0.0.1:9"), "el servicio de http://127.0.0.1:9"),
        (("valuate",), "no existe el comando: valuate"),
        (("runs", "--colour"), "no existe la opción: --colour"),
    ],
)
def test_errors_of_a_newcomer_have_no_english_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], says: str
) -> None:
    code, _, english = run_here(folder, *line)
    monkeypatch.setenv("TASADOR_LANGUAGE", "es")
    again, _, said = run_here(folder, *line)
    assert again == code
    assert says in said
    assert says not in english
    assert english_sentences(said) == []


@pytest.mark.parametrize(
    ("variables", "spanish"),
    [
        ({}, False),
        ({"TASADOR_LANGUAGE": "es"}, True),
        ({"LANG": "es_ES.UTF-8"}, True),
        ({"LC_MESSAGES": "es_MX", "LANG": "C"}, True),
        ({"LC_ALL": "C", "LANG": "es_ES.UTF-8"}, False),
        ({"TASADOR_LANGUAGE": "en", "LC_ALL": "es_ES.UTF-8"}, False),
        ({"TASADOR_LANGUAGE": "", "LANG": "es"}, True),
        ({"LANG": "est_EE"}, False),  # no language that tasador speaks
    ],
)
def test_the_variable_of_ours_wins_over_the_locale(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], spanish: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _, _, said = run_here(folder, "predict", "nowhere.csv", *USED)
    assert said.startswith("error: no existe" if spanish else "error: there is no file")


def test_names_and_what_was_typed_stay_as_they_are() -> None:
    for name in ("rows", "model", "a-1.5.csv", "v 2.5", "and 3 more"):
        assert translated(f"there is no file {name}", "es") == f"no existe el archivo {name}"
    typed = translated("rooms: expected a number of at least 0.5, got '0.25'", "es")
    assert typed == "rooms: se esperaba un número de al menos 0,5, se recibió '0.25'"
    assert translated("no such thing as 'it is 1.5'; 1,234.5", "es").endswith("1.5'; 1.234,5")
    assert translated("at /runs/1.5/a and sales-1.5.csv", "es") == (
        "at /runs/1.5/a and sales-1.5.csv"
    )


def test_every_sentence_is_known_once() -> None:
    english = [one for one, _ in sentences()]
    assert len(set(english)) == len(english)


@pytest.mark.parametrize("line", [("predict", "--with", "inputs"), ("score", "--columns", "*")])
def test_what_is_written_with_commas_is_valued_again_alike(
    folder: Path, line: tuple[str, ...]
) -> None:
    command, *keep = line
    for name, more in (("point.csv", ()), ("comma.csv", ("--decimal", "comma"))):
        output_of(folder, command, "homes.csv", *USED, *keep, "-o", f"{command}-{name}", *more)
    tables = []
    for name, mark in (("point", ","), ("comma", ";")):
        with (folder / f"{command}-{name}.csv").open(encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file, delimiter=mark)))
    point, comma = tables
    assert list(point[0]) == list(comma[0])
    assert any("," in row["area"] for row in comma)
    for row, other in zip(point, comma, strict=True):
        for name in ("area", "lower", "upper", "fsd"):
            assert row[name].replace(".", ",") == other[name]
        assert row["error"] == other["error"]
    output_of(folder, command, f"{command}-comma.csv", *USED, "-o", "again.csv")
    with (folder / "again.csv").open(encoding="utf-8") as file:
        again = list(csv.DictReader(file))
    for name in ("lower", "upper", "error"):
        assert [row[name] for row in again] == [row[name] for row in point]


def test_decimal_commas_are_for_csv(folder: Path) -> None:
    line = ("score", "homes.csv", *USED, "-o", "a.parquet", "--decimal", "comma")
    code, _, said = run_here(folder, *line)
    assert code == 2
    assert "--decimal comma is for CSV: got Parquet" in said
