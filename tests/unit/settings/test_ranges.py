"""Every number that can be set has a range, and what is outside of it is refused by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest

from tasador.core.errors import ConfigError
from tasador.settings.compose import compose
from tasador.settings.run import RunSettings
from tasador.settings.serving import ServeSettings, read_settings, variable
from tasador.settings.validation import allowed, build, fields_of


def _numbers(kind: Any) -> dict[str, Any]:
    """Return the annotation of every number of a dataclass of sections, by ``section.name``."""
    found = {}
    for section, inner in {"": kind, **fields_of(kind)}.items():
        if section == "contract" or not dataclasses.is_dataclass(inner):
            continue
        for name, hint in fields_of(inner).items():
            flat = str(hint)
            if "bool" not in flat and ("int" in flat or "float" in flat) and "dict" not in flat:
                found[f"{section}.{name}".strip(".")] = hint
    return {key: hint for key, hint in found.items() if not dataclasses.is_dataclass(hint)}


RUN, SERVE = _numbers(RunSettings), _numbers(ServeSettings)


@pytest.mark.parametrize("key", [*RUN, *SERVE])
def test_every_number_has_a_range_in_words(key: str) -> None:
    assert allowed({**RUN, **SERVE}[key]).startswith(("at least", "more than"))


@pytest.mark.parametrize("key", SERVE)
def test_a_negative_number_in_a_variable_is_refused_by_its_name(key: str) -> None:
    name = variable(*key.split("."))
    with pytest.raises(ConfigError, match=rf"{name} is invalid: expected (at least|more than)"):
        read_settings({name: "-1"})


@pytest.mark.parametrize("key", [key for key in RUN if "." in key])
def test_a_negative_number_in_a_run_is_refused_by_its_name(key: str) -> None:
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=rf"{section}\.{name}: out of range"):
        build(fields_of(RunSettings)[section], {name: -1}, section)


@pytest.mark.parametrize("key", [key for key, hint in SERVE.items() if "float" in str(hint)])
def test_a_variable_that_is_no_number_at_all_is_refused(key: str) -> None:
    for text in ("nan", "soon", "1,5"):
        with pytest.raises(ConfigError, match="is invalid"):
            read_settings({variable(*key.split(".")): text})


def test_every_default_is_within_its_range() -> None:
    environment = {}
    for section, kind in fields_of(ServeSettings).items():
        for name in fields_of(kind):
            value = getattr(kind(), name)
            if isinstance(value, (int, float)):
                environment[variable(section, name)] = str(value)
    assert read_settings(environment) == ServeSettings()
    settings = compose([])
    for section in [key for key in fields_of(RunSettings) if key != "contract"]:
        value = getattr(settings, section)
        if dataclasses.is_dataclass(value):
            assert build(type(value), dataclasses.asdict(value), section) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("SERVER__PORT", "70000", "at least 0 and at most 65,535"),
        ("SERVER__PORT", "8000.5", "a whole number"),
        ("SERVER__PORT", "", "a whole number"),
        ("SERVER__LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
        ("SERVER__ACCESS_LOG", "perhaps", "true or false"),
        ("SOURCE__POLL_JITTER", "1", "at least 0 and less than 1"),
        ("SOURCE__HOP_DEADLINE_S", "0", "more than 0 and less than 86,400"),
        ("SOURCE__ORDER", "local,local", "each of mlflow, object_store, local, last_good at most"),
        ("SOURCE__ORDER", "mlflow,ftp", "each of mlflow"),
        ("RECORDS__MODE", "sometimes", "one of durable, async, off"),
        ("CACHE__KIND", "disk", "one of off, memory, redis"),
    ],
)
def test_a_variable_says_what_it_may_hold(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_settings({f"TASADOR_{name}": text})
    assert f"TASADOR_{name}" in str(caught.value) or "order" in str(caught.value)


def test_a_secret_in_the_wrong_variable_is_not_in_the_message() -> None:
    with pytest.raises(ConfigError, match="a text of 7 characters") as caught:
        read_settings({"TASADOR_SERVER__PORT": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_an_empty_variable_is_null_where_that_may_be_and_lists_are_separated_by_commas() -> None:
    settings = read_settings(
        {
            "TASADOR_RECORDS__KEEP_VERDICTS_DAYS": "",
            "TASADOR_SECURITY__ALLOWED_HOSTS": "a.example, b.example,",
            "TASADOR_SOURCE__VERSION": "7",
        }
    )
    assert settings.records.keep_verdicts_days is None
    assert settings.security.allowed_hosts == ("a.example", "b.example")
    assert settings.source.version == "7"


def test_what_yaml_reads_otherwise_than_it_was_meant_is_put_right() -> None:
    settings = compose(["tracking.wandb=off", "tracking.experiment=2026", "sweep.study=1.5"])
    assert settings.tracking.wandb == "off"
    assert (settings.tracking.experiment, settings.sweep.study) == ("2026", "1.5")


@pytest.mark.parametrize("value", [True, 3.0, "3", math.inf, None, [3], "\ud800"])
def test_only_a_whole_number_is_one(value: Any) -> None:
    sweep = fields_of(RunSettings)["sweep"]
    with pytest.raises(ConfigError, match=r"expected a whole number|cannot be read"):
        build(sweep, {"trials": value}, "sweep")
    assert get_args(fields_of(sweep)["trials"])[0] is int


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SERVER__PRT", "did you mean TASADOR_SERVER__PORT"),
        ("RECORD__URL", "did you mean TASADOR_RECORDS__URL"),
        ("LIMIT__BATCH", "did you mean TASADOR_LIMITS__BATCH"),
        ("QUEUE__SIZE", "expected one of TASADOR_SERVER__"),
        ("RECORDS__", "TASADOR_RECORDS__ sets nothing"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused_with_the_one_that_was_meant(name, said) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings({f"TASADOR_{name}": "1"})


def test_variables_that_others_read_are_left_to_them() -> None:
    others = {"TASADOR_WATCH__CONFIG": "x", "TASADOR_UI__THEME": "y", "TASADOR_REAL_DATA": "/z"}
    assert read_settings(others) == ServeSettings()
