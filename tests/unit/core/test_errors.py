"""What to type when an extra is missing depends on how tasador was installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tasador.core import errors
from tasador.core.errors import MissingExtraError, extra_with, install_command


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    def record(text: str | None, prefix: Path) -> None:
        monkeypatch.setattr(errors, "_direct_url", lambda: text)
        monkeypatch.setattr(sys, "prefix", str(prefix))

    return record


def origin(folder: Path, *, editable: bool) -> str:
    return json.dumps({"url": folder.as_uri(), "dir_info": {"editable": editable}})


def test_a_checkouts_own_environment_is_extended_by_make(tmp_path, installed, monkeypatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "Makefile").touch()
    installed(origin(folder, editable=True), folder / ".venv")
    monkeypatch.chdir(folder)
    assert install_command("train,ui") == 'make install EXTRAS="train ui"'
    monkeypatch.chdir(tmp_path)
    assert install_command("gcs") == f"make -C '{folder}' install EXTRAS=\"gcs\""


def test_another_environment_installs_from_the_folder(tmp_path, installed) -> None:
    installed(origin(tmp_path, editable=False), Path("/elsewhere"))
    assert install_command("ui") == f'pip install "{tmp_path}[ui]"'
    installed(origin(tmp_path, editable=True), Path("/elsewhere"))
    assert install_command("ui") == f'pip install -e "{tmp_path}[ui]"'


@pytest.mark.parametrize(
    "text", [None, json.dumps({"url": "https://x/tasador.whl", "archive_info": {}})]
)
def test_an_installation_from_an_index_names_the_package(text, tmp_path, installed) -> None:
    installed(text, tmp_path)
    assert install_command("ui") == 'pip install "tasador[ui]"'


@pytest.mark.parametrize(
    ("module", "extra"),
    [("streamlit", "ui"), ("sklearn", "train"), ("polars", "train"), ("fastapi", "serve"),
     ("prometheus_client", "serve"), ("ray", "dist"), ("onnx", "train"), ("nowhere", None)],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_traced_to_its_extra(module, extra) -> None:
    assert extra_with(module) == extra
    assert (extra or "train") in str(MissingExtraError.for_module(module))
