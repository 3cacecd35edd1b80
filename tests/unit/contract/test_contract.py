from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tasador.contract.reader import from_dict, read_contract, write_contract
from tasador.core.errors import ContractError
from tasador.settings.compose import conf_folder


def plain(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "columns": {
            "a": {"kind": "number", "bounds": [0, None]},
            "c": {"kind": "category", "categories": ["x", "y"], "case_sensitive": False},
            "id": {"kind": "identifier"},
        },
        "target": {"name": "y", "transform": "log"},
        **changes,
    }


@pytest.mark.parametrize("name", ["california_housing", "diamonds", "king_county_sales"])
def test_the_shipped_contracts_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    contract = read_contract(conf_folder() / "dataset" / f"{name}.yaml")
    assert from_dict(contract.to_dict()) == contract
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(write_contract(contract, "a\n\nb"), encoding="utf-8")
    assert read_contract(copy) == contract
    assert len(contract.schema_fingerprint) == 64


def test_a_contract_knows_its_columns() -> None:
    contract = from_dict(plain())
    assert contract.feature_names == ("a", "c")
    assert [c.name for c in contract.identifiers] == ["id"]
    assert contract.coordinates is None
    assert contract.column("c").category_key(" X ") == "x"
    with pytest.raises(KeyError):
        contract.column("nope")


SPANISH = {
    "title": "Casas",
    "columns": {
        "a": {"label": "Superficie", "unit": "m²"},
        "y": {"label": "Precio", "description": "Precio pagado"},
    },
}


def test_texts_for_people_come_in_the_language_that_is_asked_for() -> None:
    contract = from_dict(plain(title="Houses", translations={"es": SPANISH}))
    assert from_dict(contract.to_dict()) == contract
    assert contract.schema_fingerprint == from_dict(plain()).schema_fingerprint
    assert (contract.title, contract.label_of("a"), contract.label_of("y")) == ("Houses", "A", "Y")
    spanish = contract.in_language("es")
    assert spanish.title == "Casas"
    assert [spanish.label_of(name) for name in ("a", "c", "y")] == ["Superficie", "C", "Precio"]
    assert spanish.column("a").unit == "m²"
    assert spanish.target.description == "Precio pagado"
    assert spanish.feature_names == contract.feature_names
    assert contract.in_language("fr") is contract


@pytest.mark.parametrize("name", ["california_housing", "king_county_sales"])
def test_the_shipped_contracts_are_whole_in_spanish(name: str) -> None:
    contract = read_contract(conf_folder() / "dataset" / f"{name}.yaml")
    texts = contract.translations["es"].texts
    shown = {c.name for c in (*contract.fields, *contract.features, *contract.rivals)}
    assert {*shown, contract.target.name} <= set(texts)
    assert all({"label", "description"} <= set(one) for one in texts.values())


@pytest.mark.parametrize(
    ("translations", "words"),
    [
        ({"fr": SPANISH}, "translations.fr"),
        ({"es": {"columns": {"nope": {"label": "x"}}}}, "translations.es.columns.nope"),
        ({"es": {"columns": {"a": {"name": "x"}}}}, "translations.es.columns.a.name"),
        ({"es": {"columns": {"a": {"label": 3}}}}, "translations.es.a.label"),
        ({"es": {"titulo": "x"}}, "translations.es.titulo"),
    ],
)
def test_texts_that_belong_to_nothing_are_refused(translations: Any, words: str) -> None:
    with pytest.raises(ContractError, match=re.escape(words)):
        from_dict(plain(translations=translations))


COLUMN: list[tuple[dict[str, Any], str]] = [
    ({"kind": "colour"}, "columns.a.kind"),
    ({"kind": "number", "role": "king"}, "columns.a.role"),
    ({"kind": "category", "categories": ["x"], "role": "longitude"}, "columns.a.role"),
    ({"kind": "number", "bounds": [1]}, "columns.a.bounds"),
    ({"kind": "number", "bounds": [2, 1]}, "columns.a.bounds"),
    ({"kind": "number", "bounds": ["x", 1]}, "columns.a.bounds"),
    ({"kind": "number", "nullable": "yes"}, "columns.a.nullable"),
    ({"kind": "number", "unit": 3}, "columns.a.unit"),
    ({"kind": "number", "units": "m"}, "did you mean 'unit'"),
    ({"kind": "number", "categories": ["x"]}, "columns.a.categories"),
    ({"kind": "category"}, "columns.a.categories"),
    ({"kind": "category", "categories": [True]}, "columns.a.categories"),
    ({"kind": "category", "categories": ["x", "x"]}, "listed more than once"),
    ({"kind": "category", "categories": ["x"], "bounds": [0, 1]}, "columns.a.bounds"),
    ({"kind": "number", "role": "longitude"}, "come together"),
    ({"kind": "text"}, "no usable column"),
]


@pytest.mark.parametrize(("column", "match"), COLUMN)
def test_a_wrong_column_is_refused_by_key(column: dict[str, Any], match: str) -> None:
    with pytest.raises(ContractError, match=re.escape(match)):
        from_dict(plain(columns={"a": column}))


REST: list[tuple[Any, str]] = [
    ([], "expected a mapping"),
    (plain(kolumns={}), "contract.kolumns"),
    (plain(name=" "), "contract.name"),
    (plain(columns={}), "columns: expected a mapping"),
    (plain(target={"name": "a"}), "the target is also listed"),
    (plain(target={"name": "y", "transform": "sqrt"}), "target.transform"),
    (plain(target={"name": "y", "cap": "high"}), "target.cap"),
    (plain(target={"name": "y", "prediction_name": "a b"}), "target.prediction_name"),
    (plain(ratios=[]), "ratios: expected a mapping"),
    (plain(ratios={"r": {"numerator": "a", "denominator": "c"}}), "ratios.r.denominator"),
    (plain(ratios={"a": {"numerator": "a", "denominator": "a"}}), "has that name already"),
    (plain(source={"delimiter": ";;"}), "source.delimiter"),
    (plain(source={"sha256": ["abc"]}), "source.sha256"),
    (plain(source={"paths": 3}), "source.paths"),
    (plain(comparables={"near": ["c"]}), "comparables.near"),
    (plain(comparables={"similar_by": "zz"}), "comparables.similar_by"),
    # found by tests/fuzz/test_contracts.py
    (plain(derive={"d": {"distance_to": ["a", "a"], "points": True}}), "derive.d.points"),
    (plain(translations={"es": {"columns": {"a": 3}}}), "translations.es.columns.a"),
    (plain(title=10**5000), "numbers up to 1.8e308"),
    (plain(target={"name": "y", "cap": 10**400}), "numbers up to 1.8e308"),
    (plain(title="a\ud800"), "Unicode text"),
    (plain(columns={"a": {"kind": "number", "\udfff": 1}}), "Unicode text"),
    (plain(source={"paths": b"x"}), "texts, numbers, dates, lists"),
    (plain(title="x" * 100_001), "texts of 100000 characters"),
]


@pytest.mark.parametrize(("contract", "match"), REST)
def test_a_wrong_section_is_refused_by_key(contract: Any, match: str) -> None:
    with pytest.raises(ContractError, match=re.escape(match)):
        from_dict(contract)


def test_two_holders_of_a_role_are_refused() -> None:
    two = {
        name: {"kind": "category", "categories": ["x"], "role": "segment"} for name in ("a", "b")
    }
    with pytest.raises(ContractError, match="role 'segment' is given to a, b"):
        from_dict(plain(columns=two))


def test_a_missing_or_broken_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no contract at"):
        read_contract(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ContractError, match="not valid YAML"):
        read_contract(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("title: 2026-02-30", "not valid YAML"),
        ("title: " + "1" * 5000, "not valid YAML"),
        ("title: &a [*a]", "20 levels deep"),
        ("title: " + "[" * 3000, "20 levels deep"),
        ("a: &b {c: &d {<<: *b, e: *b}}", "20 levels deep"),
    ],
    ids=["no such day", "5000 digits", "a list of itself", "3000 levels", "a mapping of itself"],
)
def test_yaml_that_python_cannot_hold_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ContractError, match=match):
        read_contract(tmp_path / "odd.yaml")


def test_few_bytes_of_yaml_that_mean_millions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "many.yaml").write_text("\n".join(lines))
    with pytest.raises(ContractError, match="2000000 values"):
        read_contract(tmp_path / "many.yaml")


def test_a_message_shows_the_beginning_of_a_large_value() -> None:
    with pytest.raises(ContractError, match=r"target\.name: expected a text") as refused:
        from_dict(plain(target={"name": list(range(20_000))}))
    assert len(str(refused.value)) < 500


def test_bounds_of_dates_are_kept_to_the_microsecond() -> None:
    when = {"kind": "datetime", "bounds": [-1e-9, 1e-7 + 5]}
    contract = from_dict(plain(columns={"a": {"kind": "number"}, "when": when}))
    assert from_dict(contract.to_dict()) == contract
