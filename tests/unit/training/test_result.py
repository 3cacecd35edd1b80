"""The checks of a run's result, and its report in Spanish."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasador.core.errors import StorageError
from tasador.registry.versions import CHAMPION, ModelVersion
from tasador.training.register.result import against_champion
from tasador.training.runs import report_in


def version(number: str, mae: str, data: str = "d1", champion: bool = True) -> ModelVersion:
    tags = {"test.mae": mae, "data_hash": data, "content_hash": number * 20}
    return ModelVersion("m", number, 0.0, "", tags, (CHAMPION,) if champion else ())


@pytest.mark.parametrize(
    ("mae", "met", "said"),
    [
        ("100", True, "MAE is 10.0% lower than that of version 3 on the test part"),
        ("75", False, "MAE is 20.0% higher than that of version 3 on the test part"),
    ],
)
def test_a_model_is_compared_with_the_champion(mae: str, met: bool, said: str) -> None:
    (check,) = against_champion([version("3", mae)], "m-other", "mae", {"mae": 90.0}, "d1")
    assert (check.met, check.said) == (met, said)


def test_figures_of_another_table_give_no_verdict() -> None:
    (check,) = against_champion([version("3", "100")], "m-other", "mae", {"mae": 90.0}, "d2")
    assert check.met is None
    assert "another table" in check.said


@pytest.mark.parametrize(
    "versions",
    [
        [],
        [version("3", "100", champion=False)],
        [version("3", "0")],
        [version("3", "unknown")],
        [version("3", "100")],  # the model itself
    ],
)
def test_without_another_champion_whose_error_is_known_there_is_no_check(
    versions: list[ModelVersion],
) -> None:
    itself = "m-" + ("3" * 20)[:12] if versions and versions[0].tags["test.mae"] == "100" else "x"
    assert against_champion(versions, itself, "mae", {"mae": 90.0}, "d1") == ()


def test_report_and_card_of_an_earlier_run_are_written_in_spanish(tmp_path: Path) -> None:
    assert report_in(tmp_path, "en") == tmp_path / "report.html"
    with pytest.raises(StorageError, match="cannot read"):
        report_in(tmp_path, "es")
    (tmp_path / "report.html").write_text('<html lang="en"><b>Coverage: not met</b>')
    (tmp_path / "model_card.html").write_text("<h2>Intended use</h2>")
    assert report_in(tmp_path, "es") == tmp_path / "report.es.html"
    assert (tmp_path / "report.es.html").read_text() == (
        '<html lang="es"><b>Cobertura: no cumple</b>'
    )
    assert (tmp_path / "model_card.es.html").read_text() == "<h2>Uso previsto</h2>"
