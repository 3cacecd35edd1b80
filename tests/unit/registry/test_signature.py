from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, ConfigError
from tasador.registry.bundle_stores import (
    fetch_published,
    pack,
    publish_bundle,
    read_pointer,
    unpack,
)
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import (
    SIGNATURE,
    VARIABLE,
    KeyPair,
    TrustedKeys,
    sign_bundle,
    sign_workspace,
    trusted_files,
)
from tasador.serving.cascade import Cascade
from tasador.settings.serving import SourceSettings

Keys = tuple[Path, Path]


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[..., Keys]:
    def made(name: str, key: object | None = None, password: bytes | None = None) -> Keys:
        key = key or ec.generate_private_key(ec.SECP256R1())
        locked = (
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption()
        )
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.write_bytes(
            key.private_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return private, public

    return made


@pytest.fixture
def keys(make_keys: Callable[..., Keys]) -> Keys:
    return make_keys("ours")


def trusted(*files: Path) -> TrustedKeys:
    found = TrustedKeys.read(files)
    assert found is not None
    return found


def test_a_signed_bundle_is_taken_where_its_key_is_trusted(bundle_folder: Path, keys: Keys) -> None:
    before = load_bundle(bundle_folder).version
    assert sign_bundle(bundle_folder, keys[0]) == bundle_folder / SIGNATURE
    assert load_bundle(bundle_folder, trusted=trusted(keys[1])).version == before
    assert load_bundle(bundle_folder).version == before


def test_an_unsigned_bundle_is_refused_where_a_signature_is_asked_for(
    bundle_folder: Path, keys: Keys
) -> None:
    with pytest.raises(BundleError, match="not signed"):
        load_bundle(bundle_folder, trusted=trusted(keys[1]))


def test_a_bundle_signed_by_somebody_else_is_refused(
    bundle_folder: Path, keys: Keys, make_keys: Callable[..., Keys]
) -> None:
    sign_bundle(bundle_folder, make_keys("theirs")[0])
    with pytest.raises(BundleError, match="not signed by a key that is trusted"):
        load_bundle(bundle_folder, trusted=trusted(keys[1]))


def test_any_of_several_keys_is_enough(
    bundle_folder: Path, keys: Keys, make_keys: Callable[..., Keys]
) -> None:
    newer = make_keys("newer")
    sign_bundle(bundle_folder, newer[0])
    load_bundle(bundle_folder, trusted=trusted(keys[1], newer[1]))


def test_a_whole_bundle_made_by_an_attacker_is_refused_though_its_checksums_are_right(
    bundle_folder: Path, written_bundle: Path, keys: Keys, changed_parts, tmp_path: Path
) -> None:
    """A manifest can be written anew by whoever can write to the store; a signature cannot."""
    from tasador.registry.writer import write_bundle

    sign_bundle(bundle_folder, keys[0])
    forged = write_bundle(tmp_path / "forged", changed_parts(card="# Trust me\n")).folder
    load_bundle(forged)
    shutil.copy(bundle_folder / SIGNATURE, forged / SIGNATURE)
    with pytest.raises(BundleError, match=r"of another bundle: card\.md, manifest\.json differ"):
        load_bundle(forged, trusted=trusted(keys[1]))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_file_changed_after_signing_is_refused(
    bundle_folder: Path, keys: Keys, name: str
) -> None:
    sign_bundle(bundle_folder, keys[0])
    data = bytearray((bundle_folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle_folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleError):
        load_bundle(bundle_folder, trusted=trusted(keys[1]))


def test_a_statement_changed_after_signing_is_refused(bundle_folder: Path, keys: Keys) -> None:
    sign_bundle(bundle_folder, keys[0])
    plain = json.loads((bundle_folder / SIGNATURE).read_bytes())
    statement = json.loads(base64.b64decode(plain["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"].pop()
    plain["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (bundle_folder / SIGNATURE).write_text(json.dumps(plain))
    with pytest.raises(BundleError, match="not signed by a key that is trusted"):
        load_bundle(bundle_folder, trusted=trusted(keys[1]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"dsseEnvelope": null}',
        b'{"dsseEnvelope": {"payloadType": "text/plain", "payload": "", "signatures": []}}',
        b'{"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "?",'
        b' "signatures": [{"sig": ""}]}}',
        b"\xff" * 100,
    ],
)
def test_a_signature_that_is_none_is_refused(
    bundle_folder: Path, keys: Keys, content: bytes
) -> None:
    (bundle_folder / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match=f"{SIGNATURE} cannot be read"):
        load_bundle(bundle_folder, trusted=trusted(keys[1]))


def test_a_signature_of_absurd_size_is_refused_unread(bundle_folder: Path, keys: Keys) -> None:
    (bundle_folder / SIGNATURE).write_bytes(b" " * (2 << 20))
    for wanted in (None, trusted(keys[1])):
        with pytest.raises(BundleError, match="too large"):
            load_bundle(bundle_folder, trusted=wanted)


def test_who_signed_is_named_by_the_file_of_the_key(bundle_folder: Path, keys: Keys) -> None:
    sign_bundle(bundle_folder, keys[0])
    files = {file.name: file.read_bytes() for file in bundle_folder.iterdir()}
    assert trusted(keys[1]).check(files) == str(keys[1])


def test_a_workspaces_keys_are_made_once_and_public_ones_again_when_lost(tmp_path: Path) -> None:
    pair, copy = KeyPair(tmp_path), tmp_path / "shared" / "signing.pub"
    assert (pair.private, pair.public) == (
        tmp_path / "keys" / "signing.pem", tmp_path / "keys" / "signing.pub",
    )  # fmt: skip
    assert pair.make(copy)
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    private, public = pair.private.read_bytes(), pair.public.read_bytes()
    assert copy.read_bytes() == public != private
    pair.public.unlink()
    copy.write_bytes(b"of somebody else")
    assert not pair.make(copy)
    assert (pair.private.read_bytes(), pair.public.read_bytes()) == (private, public)
    assert copy.read_bytes() == public
    assert not pair.make()


def test_keys_that_are_named_count_before_that_of_the_workspace(tmp_path: Path) -> None:
    assert trusted_files(tmp_path, {}) == trusted_files(None, {}) == ()
    KeyPair(tmp_path).make()
    assert trusted_files(tmp_path, {}) == (str(KeyPair(tmp_path).public),)
    assert trusted_files(tmp_path, {VARIABLE: " a.pub, b.pub,,"}) == ("a.pub", "b.pub")
    assert trusted_files(tmp_path, {VARIABLE: ""}) == ()


def test_a_workspace_is_signed_but_for_what_is_signed_damaged_or_elsewhere(
    bundle_folder: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    good = [workspace / "bundles" / "good", workspace / "last_good" / "bundles" / "good"]
    for folder in (*good, workspace / "bundles" / "damaged"):
        shutil.copytree(bundle_folder, folder)
    (folder / "card.md").write_text("changed")
    (workspace / "bundles" / "elsewhere").symlink_to(bundle_folder)
    KeyPair(workspace).make()
    for count in (2, 0):
        signed, problems = sign_workspace(workspace)
        assert (signed, len(problems)) == (count, 2)
        assert "damaged was not signed" in problems[0]
        assert "elsewhere is not in this workspace" in problems[1]
    ours = trusted(KeyPair(workspace).public)
    assert {load_bundle(folder, trusted=ours).version for folder in good}
    assert not (bundle_folder / SIGNATURE).exists()


def test_a_damaged_bundle_is_not_signed(bundle_folder: Path, keys: Keys) -> None:
    (bundle_folder / "card.md").write_text("changed")
    with pytest.raises(BundleError, match=r"card\.md"):
        sign_bundle(bundle_folder, keys[0])
    assert not (bundle_folder / SIGNATURE).exists()


def test_the_signature_travels_in_an_archive_and_through_a_store(
    bundle_folder: Path, keys: Keys, tmp_path: Path
) -> None:
    sign_bundle(bundle_folder, keys[0])
    pack(bundle_folder, tmp_path / "bundle.zip")
    unpack(tmp_path / "bundle.zip", tmp_path / "unpacked")
    load_bundle(tmp_path / "unpacked", trusted=trusted(keys[1]))
    store = str(tmp_path / "store")
    publish_bundle(bundle_folder, store)
    deadline = Deadline.after(30.0)
    fetch_published(
        store, read_pointer(store, deadline=deadline), tmp_path / "fetched", deadline=deadline
    )
    load_bundle(tmp_path / "fetched", trusted=trusted(keys[1]))


def test_a_server_takes_only_what_a_trusted_key_signed(
    bundle_folder: Path, keys: Keys, tmp_path: Path
) -> None:
    settings = SourceSettings(local=str(bundle_folder), trusted_keys=(str(keys[1]),))
    source = next(source for source in Cascade.of(settings).sources if source.name == "local")
    with pytest.raises(BundleError, match="not signed"):
        source.load()
    sign_bundle(bundle_folder, keys[0])
    assert source.load().source == "local"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_other_curves_of_the_format_work(
    bundle_folder: Path, make_keys: Callable[..., Keys], curve: ec.EllipticCurve
) -> None:
    private, public = make_keys("other", ec.generate_private_key(curve))
    sign_bundle(bundle_folder, private)
    load_bundle(bundle_folder, trusted=trusted(public))


def test_a_key_of_a_different_type_and_a_file_that_is_none_are_named(
    bundle_folder: Path, make_keys: Callable[..., Keys], tmp_path: Path
) -> None:
    private, public = make_keys("edwards", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="no elliptic curve key"):
        sign_bundle(bundle_folder, private)
    with pytest.raises(ConfigError, match="no elliptic curve key"):
        TrustedKeys.read([public])
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="no public key"):
        TrustedKeys.read([tmp_path / "text"])
    with pytest.raises(ConfigError, match="no private key"):
        sign_bundle(bundle_folder, tmp_path / "text")


def test_a_locked_key_needs_its_password(
    bundle_folder: Path, make_keys: Callable[..., Keys]
) -> None:
    private, public = make_keys("locked", password=b"open sesame")
    with pytest.raises(ConfigError, match="cannot be opened"):
        sign_bundle(bundle_folder, private)
    with pytest.raises(ConfigError, match="no private key"):
        sign_bundle(bundle_folder, private, b"wrong")
    sign_bundle(bundle_folder, private, b"open sesame")
    load_bundle(bundle_folder, trusted=trusted(public))


def test_the_command_line_signs_and_verifies(
    bundle_folder: Path, keys: Keys, make_keys: Callable[..., Keys]
) -> None:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tasador.cli.app", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("sign", bundle_folder, "--key", keys[0]).returncode == 0
    done = run("verify", bundle_folder, "--key", keys[1])
    assert done.returncode == 0
    assert "signed by a trusted key" in done.stdout
    refused = run("verify", bundle_folder, "--key", make_keys("theirs")[1])
    assert refused.returncode == BundleError.exit_code
    assert "not signed by a key that is trusted" in refused.stderr


@pytest.mark.slow
def test_the_format_is_that_of_openssf_model_signing_in_both_directions(
    bundle_folder: Path, keys: Keys, tmp_path: Path
) -> None:
    """Against the real tool, in an environment of its own since its protobuf is another one."""
    environment = tmp_path / "tool"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [
        environment / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "model-signing==1.1.1",
        "pyopenssl",
    ]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"model-signing cannot be installed: {installed.stderr[-200:]}")

    def tool(action: str, *options: str | Path) -> None:
        signature = ("--signature", bundle_folder / SIGNATURE)
        command = [environment / "bin" / "model_signing", action, "key", bundle_folder]
        done = subprocess.run(
            [*map(str, command), *map(str, signature), *map(str, options)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    sign_bundle(bundle_folder, keys[0])
    tool("verify", "--public_key", keys[1])
    (bundle_folder / SIGNATURE).unlink()
    tool("sign", "--private_key", keys[0])
    load_bundle(bundle_folder, trusted=trusted(keys[1]))
