from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import tasador
from tasador.core.errors import ConfigError
from tasador.settings.compose import compose, datasets, to_yaml
from tasador.settings.run import RunSettings

SOURCE = Path(tasador.__file__).parent


def test_the_default_is_california_and_leaves_the_split_to_its_contract() -> None:
    settings = compose([])
    assert settings.contract.name == "california_housing"
    assert (settings.segregate.method, settings.segregate.seed) == (None, 42)
    assert settings.sweep.trials == 8


def test_a_profile_changes_groups() -> None:
    settings = compose(["dataset=diamonds", "profile=full"])
    assert settings.segregate.method is None
    assert (settings.sweep.trials, settings.sweep.patience) == (40, 15)
    assert compose([]).sweep.patience is None


@pytest.mark.parametrize("name", ["quick", "full", "article"])
def test_whatever_a_profile_says_is_what_a_run_gets(name: str) -> None:
    given = yaml.safe_load((SOURCE / "conf" / "profile" / f"{name}.yaml").read_text())
    sections = given.keys() - {"defaults", "dataset"}
    assert sections
    settings = compose([f"profile={name}"])
    for section in sections:
        found = vars(getattr(settings, section))
        assert {key: found[key] for key in given[section]} == given[section]
    assert compose([f"profile={name}", "impute.folds=7"]).impute.folds == 7


def test_every_value_can_be_set_on_the_command_line() -> None:
    settings = compose(["sweep.trials=3", "seed=7", "storage.workspace=/x", "steps=[select]"])
    assert (settings.sweep.trials, settings.seed) == (3, 7)
    assert settings.storage.workspace == "/x"
    assert settings.steps == ["select"]


def test_every_setting_of_every_section_is_a_key_of_the_configuration() -> None:
    settings = compose([])
    keys = [
        f"{section}.{name}={json.dumps(value)}"
        for section, part in vars(settings).items()
        if dataclasses.is_dataclass(part) and section != "contract"
        for name, value in vars(part).items()
        if value is None or isinstance(value, bool | int | float | str)
    ]
    assert 'register.refit="auto"' in keys
    assert compose(keys) == settings


def test_a_contract_in_the_projects_own_conf_is_found(tmp_path: Path) -> None:
    project = tmp_path / "my project's"
    folder = project / "conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "name: mine\ncolumns: {a: {kind: number}}\ntarget: {name: y}\n"
    )
    assert compose(["dataset=mine"], project=project).contract.feature_names == ("a",)
    assert "mine" in datasets(project)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("dataset=diamond", "did you mean 'diamonds'"),
        ("nonsense", "expected key=value"),
        ("sweep.trials=many", "expected a whole number"),
        ("sweep.trails=1", "sweep.trails"),
        ("+sweep.trails=1", "did you mean 'trials'"),
        ("+extra=1", "extra: unknown setting"),
        ("force=maybe", "expected true or false"),
        ("segregate.method=dice", "expected one of row_hash, random"),
        ("segregate.test_share=null", "expected a number"),
        ("download.search=here", "expected a list"),
        ("selection.families=3", "expected a mapping"),
        ("sweep=3", "must be a string"),
        ("nothing.at.all=3", "nothing: unknown setting"),
        ("selection.families={forest:{}}", "+selection.families.NAME"),
        ("impute.strategy=magic", "iterative_rf, native, got 'magic'"),
        ("impute.folds=1", "impute.folds: out of range"),
        ("impute.repeats=0", "impute.repeats: out of range"),
        ("impute.max_rows=10", "impute.max_rows: out of range"),
        ("steps=[feature]", "did you mean 'features'"),
        ("from_step=cook", "from_step: expected one of download, segregate"),
        ("steps=features", "steps: wrong type: expected a list"),
        ("dataset.columns.longitude.kind=colour", "longitude.kind"),
        ("sweep.trials=[", "cannot be composed"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(match)):
        compose([override])


def _leaves(kind: Any, prefix: str = "") -> list[str]:
    names = []
    for entry in dataclasses.fields(kind):
        default = entry.default_factory  # type: ignore[misc]
        if isinstance(default, type) and dataclasses.is_dataclass(default):
            names += _leaves(default, f"{prefix}{entry.name}.")
        else:
            names.append(f"{prefix}{entry.name}")
    return names


@pytest.mark.parametrize("key", _leaves(RunSettings))
def test_a_key_that_nobody_reads_does_not_exist(key: str) -> None:
    name = key.rpartition(".")[2]
    readers = [
        path
        for path in SOURCE.rglob("*.py")
        if path.name != "settings.py" and re.search(rf"\w\.{name}\b", path.read_text("utf-8"))
    ]
    assert readers, f"{key} is read nowhere"


def test_yaml_keeps_the_order_of_keys() -> None:
    assert to_yaml({"b": 1, "a": (1, 2)}) == "b: 1\na:\n- 1\n- 2\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [("name: [x\n", r"not valid YAML.*mine\.yaml"), ("a: 1\na: 2\n", "duplicate key a")],
)
def test_a_contract_that_is_no_yaml_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        compose(["dataset=mine"], project=tmp_path)


def test_a_file_of_the_project_wins_over_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "diamonds.yaml").write_text(
        "name: mine\ncolumns: {a: {kind: number}}\ntarget: {name: y}\n"
    )
    (tmp_path / "conf" / "config.yaml").write_text("of: another program\n")
    assert compose(["dataset=diamonds"], project=tmp_path).contract.name == "mine"
    assert compose(["dataset=diamonds"]).contract.target.name == "price"
    shipped = compose(["dataset=king_county_sales"], project=tmp_path)
    assert shipped.contract.target.name == "SalePrice"


def test_a_profile_that_is_not_there_names_the_one_that_is_alike() -> None:
    with pytest.raises(ConfigError, match=r"profile.*quick.*'qick'.*quick"):
        compose(["profile=qick"])
