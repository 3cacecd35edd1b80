import dataclasses

import orjson
import pytest

from tasador.core.errors import BundleError
from tasador.registry.manifest import Manifest, ModelEntry, checked_path


@pytest.fixture
def manifest():
    return Manifest(
        format_version=1,
        name="houses",
        created="2026-11-23T10:00:00Z",
        origin="real",
        contract={"name": "houses"},
        features={},
        target={},
        interval={},
        model=ModelEntry("model.onnx", "linear", 3),
        metrics={"mape": 12.5},
        lineage={},
        parity={},
        files={},
    ).with_content_hash()


def test_it_is_written_and_read_back_the_same(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.version == f"houses-{manifest.content_hash[:12]}"


def test_the_time_of_writing_is_no_part_of_the_content(manifest):
    plain = orjson.loads(manifest.to_json()) | {"created": "2027-01-01T00:00:00Z"}
    assert Manifest.from_json(orjson.dumps(plain)).content_hash == manifest.content_hash


def test_the_release_is_no_part_of_the_content_and_may_be_missing(manifest):
    released = dataclasses.replace(manifest, release="1.2.0")
    assert Manifest.from_json(released.to_json()) == released
    assert released.with_content_hash().content_hash == manifest.content_hash
    assert "release" not in orjson.loads(manifest.to_json())
    with pytest.raises(BundleError, match=r"release cannot be read.*a release such as 1\.2\.0"):
        Manifest.from_json(orjson.dumps(orjson.loads(manifest.to_json()) | {"release": "v2"}))


def test_a_changed_figure_is_noticed(manifest):
    data = manifest.to_json().replace(b"12.5", b"11.5")
    with pytest.raises(BundleError, match="was changed after it was written"):
        Manifest.from_json(data)


def test_a_metric_that_is_not_a_number_is_kept_as_missing(manifest):
    odd = dataclasses.replace(manifest, metrics={"r2": float("nan")}).with_content_hash()
    assert Manifest.from_json(odd.to_json()).metrics == {"r2": None}


def test_what_json_cannot_hold_is_refused(manifest):
    with pytest.raises(BundleError, match="cannot be written"):
        dataclasses.replace(manifest, lineage={"model": object()}).with_content_hash()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an object"),
        (b'{"format_version": 2}', "unknown format version.*update tasador"),
        (b'{"format_version": true}', "unknown format version"),
        (b'{"format_version": "1"}', "unknown format version"),
        (b"{}", "unknown format version"),
        (b'{"format_version": 1}', "does not have the keys"),
    ],
    ids=range(10),
)
def test_what_is_no_manifest_is_refused(data, message):
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "name cannot be read"),
        ({"name": 3}, "name cannot be read"),
        ({"created": "yesterday"}, "created cannot be read"),
        ({"origin": "dreamt"}, "expected real or synthetic"),
        ({"contract": []}, "contract cannot be read"),
        ({"model": {}}, "model does not have the keys"),
        ({"model": {"file": "m", "kind": "k", "n_features": -1}}, "model.n_features"),
        ({"model": {"file": "m", "kind": "k", "n_features": True}}, "model.n_features"),
        ({"model": {"file": "", "kind": "k", "n_features": 1}}, "model.file"),
        ({"model": {"file": "m", "kind": "", "n_features": 1}}, "model.kind"),
        ({"files": {"a": 3}}, r"files\.a cannot be read"),
        ({"files": {"a": {"sha256": "0", "bytes": 1}}}, "64 hexadecimal digits"),
        ({"files": {"a": {"sha256": "0" * 64}}}, "does not have the keys"),
        ({"files": {"../a": {"sha256": "0" * 64, "bytes": 1}}}, r"'\.\./a' is refused"),
        ({"content_hash": "0" * 64}, "was changed"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused(manifest, change, message):
    plain = orjson.loads(manifest.to_json()) | change
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(orjson.dumps(plain))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "./a",
        "a\\b",
        "C:x",
        "",
        "a/",
        "a\x00",
        "a\n",
        "é",
        "~",
    ],
)
def test_a_path_that_may_lead_elsewhere_is_refused(path):
    with pytest.raises(BundleError, match="is refused"):
        checked_path(path)


def test_a_plain_path_is_kept():
    assert checked_path("plots/map-1.v2.png") == "plots/map-1.v2.png"


def test_columns_in_another_order_are_another_contract(manifest):
    one, two = (
        dataclasses.replace(manifest, contract={"columns": columns}).with_content_hash()
        for columns in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    )
    assert one.content_hash != two.content_hash
    assert list(Manifest.from_json(two.to_json()).contract["columns"]) == ["b", "a"]
