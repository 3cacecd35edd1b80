"""Publishing a bundle from a workspace or from the registry, with the real command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, ConfigError, NothingOfferedError
from tasador.inference.model_choice import BundleChoice
from tasador.lifecycle.first_champion import train
from tasador.ops.publish_bundle import publish_registered
from tasador.registry.bundle_stores import read_pointer
from tasador.registry.model_bundle import load_bundle
from tasador.settings.compose import compose

pytestmark = pytest.mark.slow


def test_the_newest_real_bundle_of_a_workspace_is_published(tmp_path, real_bundle, written_bundle):
    workspace, store = tmp_path / "workspace", tmp_path / "store"
    with pytest.raises(NothingOfferedError, match="no bundle under"):
        publish_registered(store, BundleChoice(workspace))
    shutil.copytree(real_bundle, workspace / "bundles" / "a")
    shutil.copytree(written_bundle, workspace / "bundles" / "b")
    pointer, _ = publish_registered(store, BundleChoice(workspace))
    assert pointer.version == load_bundle(real_bundle).version
    with pytest.raises(BundleError, match="must not take the place"):
        publish_registered(store, BundleChoice(workspace, written_bundle))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_the_version_that_an_alias_points_to_is_published(tmp_path, registry_server, newer_bundle):
    registry_server.register(newer_bundle, "delivered")
    choice = BundleChoice(model="delivered", alias="staging", registry=registry_server.uri)
    pointer, _ = publish_registered(tmp_path, choice)
    assert pointer.version == load_bundle(newer_bundle).version
    assert pointer.notes["from"].startswith("models:/delivered/1#")


def test_the_command_says_what_it_published(tmp_path, real_bundle):
    command = [sys.executable, "-m", "tasador.cli.app", "publish", str(tmp_path / "store")]
    environment = {**os.environ, "NO_COLOR": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, env=environment, check=False
        )

    done = run("--bundle", str(real_bundle))
    version = read_pointer(tmp_path / "store", deadline=Deadline.after(10)).version
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"published {version} (")
    both = run("--bundle", str(real_bundle), "--model", "x")
    assert both.returncode == 2
    assert "--bundle and --model contradict each other" in both.stderr
    absent = run("--model", "x", "--workspace", str(tmp_path / "none"))
    assert absent.returncode == 5


def test_documents_that_are_not_there_are_named_and_nothing_is_offered(
    real_bundle: Path, tmp_path: Path
) -> None:
    choice, place = BundleChoice(tmp_path, bundle=real_bundle), tmp_path / "place"
    with pytest.raises(ConfigError, match=r"pictures cannot be published.*data, splits"):
        publish_registered(place, choice, documents=["data", "pictures"])
    with pytest.raises(ConfigError, match=r"the run that made .* is not kept"):
        publish_registered(place, choice, documents=["cards"])
    assert not (place / "latest.json").exists()


def test_an_address_of_an_unknown_kind_is_no_folder(
    real_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"ftp://host/x cannot be reached.*gs://"):
        publish_registered("ftp://host/x", BundleChoice(tmp_path, bundle=real_bundle))
    for words in (["download.search=[ftp://host/x]"], ["storage.workspace=gs://bucket/w"]):
        with pytest.raises(ConfigError, match=r"cannot be reached|is not a local folder"):
            train(compose([*words, "steps=[download]"], project=tmp_path))
    assert not list(tmp_path.glob("*:"))
