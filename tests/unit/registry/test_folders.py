"""Which of several bundles on a disk is the one to use."""

from __future__ import annotations

import os
import shutil

import pytest

from tasador.core.errors import NothingOfferedError
from tasador.registry.local import newest_bundle


@pytest.fixture
def folder(tmp_path, written_bundle, real_bundle, newer_bundle):
    """Three bundles: an old and a new real one, and a synthetic one that is newer than both."""
    for age, (name, bundle) in enumerate(
        {"synthetic": written_bundle, "new": newer_bundle, "old": real_bundle}.items()
    ):
        shutil.copytree(bundle, tmp_path / name)
        os.utime(tmp_path / name / "manifest.json", (1e9 - age, 1e9 - age))
    return tmp_path


def test_the_newest_real_bundle_is_taken(folder):
    assert newest_bundle(folder).name == "new"
    shutil.rmtree(folder / "new")
    assert newest_bundle(folder).name == "old"
    shutil.rmtree(folder / "old")
    assert newest_bundle(folder).name == "synthetic"


def test_hidden_damaged_and_unreadable_folders_are_skipped(folder):
    (folder / "new").rename(folder / "new.damaged-abc")
    (folder / "old").rename(folder / ".old.tmp")
    (folder / "synthetic" / "manifest.json").write_text("[]")
    assert newest_bundle(folder).name == "synthetic"
    with pytest.raises(NothingOfferedError, match="of the model 'houses_model'"):
        newest_bundle(folder, "houses_model")


def test_a_name_picks_one_model(folder):
    assert newest_bundle(folder, "houses_model").name == "new"
    with pytest.raises(NothingOfferedError, match=r"no bundle under .* of the model 'other'"):
        newest_bundle(folder, "other")
