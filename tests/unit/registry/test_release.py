from __future__ import annotations

import dataclasses
import itertools
import shutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.registry_fakes import MemoryVersions
from tasador.core.errors import ConfigError
from tasador.registry.manifest import Manifest, ModelEntry
from tasador.registry.mlflow.registration import (
    as_texts,
    identity_tags,
    model_metadata,
    next_release,
    stamp_release,
)
from tasador.registry.model_bundle import load_bundle
from tasador.registry.versions import ModelVersion, find_version

_COUNT = itertools.count()


def manifest(*, bound: float = 10.0, rows: str = "a", clusters: int = 3) -> Manifest:
    """A manifest of content that no other has: what is not named here was trained again."""
    return Manifest(
        format_version=1,
        name="houses",
        created="2026-11-23T10:00:00Z",
        origin="real",
        contract={
            "name": "houses",
            "title": "Houses",
            "model_name": "houses",
            "columns": {"size": {"kind": "number", "bounds": [0.0, bound]}},
            "target": {"name": "price"},
        },
        features={"names": ["size", *(f"cluster_{i}" for i in range(clusters))]},
        target={},
        interval={},
        model=ModelEntry("model.onnx", "linear", 1),
        metrics={"test": {"mape": 12.25}, "segments": [{"name": "north", "mape": 9.5}]},
        lineage={"data_hash": rows, "trial": next(_COUNT)},
        parity={},
        files={},
    ).with_content_hash()


def registered(made: Manifest, earlier: list[ModelVersion]) -> list[ModelVersion]:
    """The versions, the newest first, once `made` is one of them."""
    release = next_release(made, earlier)
    tags = as_texts(model_metadata(dataclasses.replace(made, release=release)))
    return [ModelVersion("houses", str(len(earlier) + 1), 0.0, "", tags), *earlier]


def releases(*made: Manifest) -> list[str]:
    versions: list[ModelVersion] = []
    for one in made:
        versions = registered(one, versions)
    return [version.release for version in reversed(versions)]


def test_what_changed_decides_which_part_of_the_release_grows() -> None:
    assert releases(
        manifest(),
        manifest(),
        manifest(rows="b"),
        manifest(rows="b", clusters=4),
        manifest(rows="b", clusters=4),
        manifest(rows="b", clusters=4, bound=20.0),
        manifest(rows="c", clusters=4, bound=20.0),
    ) == ["1.0.0", "1.0.1", "1.1.0", "1.2.0", "1.2.1", "2.0.0", "2.1.0"]


def test_a_title_or_a_source_is_no_new_contract() -> None:
    first = manifest()
    contract = {**first.contract, "title": "Flats", "source": {"paths": ["other.csv"]}}
    assert (
        releases(first, dataclasses.replace(first, contract=contract).with_content_hash())[-1]
        == "1.0.1"
    )


def test_the_same_content_keeps_its_release() -> None:
    first, second = manifest(), manifest()
    assert releases(first, second, first, manifest()) == ["1.0.0", "1.0.1", "1.0.0", "1.0.2"]


def test_a_release_from_another_registry_is_kept_unless_it_is_taken() -> None:
    brought = dataclasses.replace(manifest(), release="1.4.0")
    assert releases(brought) == ["1.4.0"]
    assert releases(dataclasses.replace(manifest(), release="1.4.0"), brought)[-1] == "1.4.1"


def test_versions_registered_before_there_were_releases_count_by_their_number() -> None:
    made = manifest()
    old = ModelVersion("houses", "7", 0.0, "", {"data_hash": "a", "content_hash": "0" * 64})
    assert next_release(made, [old]) == "1.6.1"
    assert next_release(manifest(rows="b"), [old]) == "1.7.0"


@given(st.lists(st.sampled_from([(10.0, "a"), (10.0, "b"), (20.0, "a"), (20.0, "b")])))
def test_releases_only_grow_and_name_one_content_each(kinds: list[tuple[float, str]]) -> None:
    found = releases(*(manifest(bound=bound, rows=rows) for bound, rows in kinds))
    numbers = [tuple(map(int, release.split("."))) for release in found]
    assert numbers == sorted(set(numbers))


def test_a_stamped_bundle_says_its_release_and_has_the_content_it_had(bundle_folder) -> None:
    before = load_bundle(bundle_folder).manifest
    stamp_release(bundle_folder, "1.2.0")
    after = load_bundle(bundle_folder).manifest
    assert (after.release, after.content_hash) == ("1.2.0", before.content_hash)
    assert list(bundle_folder.parent.glob(".*")) == []
    shutil.rmtree(bundle_folder)


def test_a_version_is_found_by_its_release() -> None:
    versions = MemoryVersions(count=2)
    versions.tag("1", "release", "10.20.30")
    assert find_version(versions, "10.20.30").number == "1"
    with pytest.raises(ConfigError, match=r"no version '1\.0\.0'.*a release such as 1\.2\.0"):
        find_version(versions, "1.0.0")


def test_texts_are_the_metadata_and_leave_out_what_is_not_known() -> None:
    metadata: dict[str, Any] = model_metadata(manifest())
    texts = as_texts(metadata)
    assert texts["test.mape"] == "12.25"
    assert texts["by_segment.north.mape"] == "9.5"
    assert texts["features"] == '["size","cluster_0","cluster_1","cluster_2"]'
    assert metadata["release"] is None
    assert "release" not in texts
    assert set(identity_tags(manifest()).items()) <= set(texts.items())
