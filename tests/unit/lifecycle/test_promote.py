"""Use cases in a process of their own: what they return and raise, and what ends them."""

from __future__ import annotations

import os
import time

import pytest

from tasador.core.errors import NothingOfferedError, RegistryError
from tasador.lifecycle.promote import call_apart
from tasador.registry.versions import only_model


def test_an_error_arrives_as_the_class_it_is_with_all_its_parts() -> None:
    with pytest.raises(NothingOfferedError, match="no model is registered") as caught:
        call_apart(only_model, [], seconds=60)
    assert caught.value.remedy == "train one with `tasador run`"


def test_what_the_process_returns_arrives() -> None:
    assert call_apart(dict, [("version", "2")], seconds=60) == {"version": "2"}


def test_a_process_that_dies_or_hangs_is_an_error_and_is_gone() -> None:
    with pytest.raises(RegistryError, match="died with exit code 3"):
        call_apart(os._exit, 3, seconds=60)
    started = time.monotonic()
    with pytest.raises(RegistryError, match="did not end within 0 s and was stopped"):
        call_apart(time.sleep, 600, seconds=0.2)
    assert time.monotonic() - started < 60
