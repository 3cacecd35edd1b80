"""`tasador doctor` names the protections that are off, and what switches each on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasador.ops.doctor import examine, protections
from tasador.registry.signature import SIGNATURE, KeyPair, sign_bundle
from tasador.settings.compose import compose


def looked_at(workspace: Path, **environment: str) -> dict[str, tuple[bool, str]]:
    return {one.name: (one.on, one.detail) for one in protections(environment, workspace)}


@pytest.fixture
def workspace(bundle_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    shutil.copytree(bundle_folder, folder / "bundles" / "one")
    return folder


def test_what_is_off_on_a_laptop_is_named_with_its_setting(workspace: Path) -> None:
    (workspace / "tasador.db").touch(mode=0o644)
    found = looked_at(workspace, TASADOR_SERVER__HOST="0.0.0.0")
    off = {name: detail for name, (on, detail) in found.items() if not on}
    assert set(off) == {
        "API keys", "trusted keys", "signed model", "files", "rate limit", "host names", "TLS"
    }  # fmt: skip
    assert "TASADOR_SECURITY__KEYS_FILE" in off["API keys"]
    assert "TASADOR_SOURCE__TRUSTED_KEYS" in off["trusted keys"]
    assert "tasador sign" in off["signed model"]
    assert f"chmod 600 {workspace / 'tasador.db'}" in off["files"]
    assert "TASADOR_LIMITS__RATE_PER_S" in off["rate limit"]
    assert "TASADOR_SECURITY__ALLOWED_HOSTS" in off["host names"]
    assert "TASADOR_SERVER__HOST" in off["TLS"]


def test_what_was_switched_on_is_on(workspace: Path) -> None:
    pair = KeyPair(workspace)
    pair.make()
    sign_bundle(workspace / "bundles" / "one", pair.private)
    found = looked_at(
        workspace,
        TASADOR_SECURITY__KEYS="web:client:" + 64 * "a",
        TASADOR_SECURITY__ALLOWED_HOSTS="values.example.org",
        TASADOR_LIMITS__RATE_PER_S="50",
    )
    assert [name for name, (on, _) in found.items() if not on] == []


def test_a_model_without_the_signature_of_a_trusted_key_is_named(workspace: Path) -> None:
    pair = KeyPair(workspace)
    pair.make()
    on, detail = looked_at(workspace)["signed model"]
    assert not on
    assert "not signed" in detail
    sign_bundle(workspace / "bundles" / "one", pair.private)
    (workspace / "bundles" / "one" / SIGNATURE).write_bytes(b"{}")
    assert not looked_at(workspace)["signed model"][0]


@pytest.mark.parametrize(
    ("uri", "on"),
    [
        ("http://127.0.0.1:9", True), ("http://registry.example.org:5000", False),
        ("https://registry.example.org", False), ("https://me:secret@registry.example.org", True),
    ],
)  # fmt: skip
def test_a_registry_that_anybody_may_write_to_is_named(
    workspace: Path, uri: str, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USERNAME", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    found, detail = looked_at(
        workspace, TASADOR_SOURCE__TRACKING_URI=uri, TASADOR_SOURCE__MODEL_NAME="m",
        TASADOR_SOURCE__CONNECT_S="0.1", TASADOR_SOURCE__ATTEMPTS="1",
    )["registry"]  # fmt: skip
    assert found is on
    assert "secret" not in detail


def test_a_column_set_aside_that_explains_the_target_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "dataset" / "homes.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "columns:\n"
        "  area: {kind: number}\n"
        "  note: {kind: text, description: 'Set aside: text; explains 31% of the target'}\n"
        "  code: {kind: text, description: 'Set aside: text; explains 2% of the target'}\n"
        "target: {name: price}\n"
    )
    settings = compose(["dataset=homes", f"storage.workspace={tmp_path}"], project=tmp_path)
    found = [f for f in examine(settings) if f.what.startswith("column ")]
    assert [(f.what, f.state) for f in found] == [("column note", "optional")]
    assert "tasador init --category note" in found[0].detail
