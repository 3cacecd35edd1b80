"""Signed bundles: who made it, where the manifest's checksums only say that nothing changed.

A signature is the file ``model.sig`` in the bundle's folder, in the format of OpenSSF Model Signing
1.0 with an elliptic curve key: an in-toto statement that names the SHA-256 of every file, the
manifest included, in a DSSE envelope in a Sigstore bundle. ``model_signing verify key`` accepts
what is written here, and the other way round; a test does both. That tool itself is not used: it
brings 30 packages and a version of protobuf that exporting models excludes, and all that a key
takes of it is here, on ``cryptography`` alone.

One setting decides which keys are trusted wherever a bundle is loaded:
``TASADOR_SOURCE__TRUSTED_KEYS``, paths of public keys separated by commas. Where it is not set,
the public key in the workspace counts, if there is one; set to an empty text, no signature is asked
for.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    MissingExtraError,
    NothingOfferedError,
    StorageError,
    TasadorError,
)
from tasador.core.hashing import sha256_bytes
from tasador.core.storage import read_bytes, write_bytes
from tasador.registry.manifest import MANIFEST_NAME, SIGNATURE, BundleLimits, read_verified

VARIABLE = "TASADOR_SOURCE__TRUSTED_KEYS"
#: Path of the private key, where no run names another one.
SIGNING_KEY = "TASADOR_SIGNING_KEY"
_READ_S = 30.0
#: The private key's password, where a person or a process list could see an option.
PASSWORD = "TASADOR_SIGNING_PASSWORD"  # noqa: S105 - a variable's name

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
#: Curves of the format, and the hash that goes with each.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_REMEDY = "do not use this bundle; have it signed by whoever is trusted: tasador sign"
#: What reading a signature that is none raises.
_MALFORMED = (KeyError, ValueError, TypeError, IndexError, AttributeError)


class UntrustedBundleError(BundleError):
    """A bundle that nobody who is trusted has signed."""

    @classmethod
    def unsigned(cls) -> UntrustedBundleError:
        """Return the error of a bundle without a signature."""
        return cls(
            "the bundle is not signed", expected=f"a {SIGNATURE} by a trusted key", remedy=_REMEDY
        )

    @classmethod
    def of_another_key(cls, trusted: Iterable[str]) -> UntrustedBundleError:
        """Return the error of a signature by none of the `trusted` files' keys."""
        return cls(
            "the bundle was not signed by a key that is trusted",
            expected=f"a signature of {', '.join(trusted)}",
            remedy=_REMEDY,
        )

    @classmethod
    def of_other_files(cls, names: Sequence[str]) -> UntrustedBundleError:
        """Return the error of a trusted signature under other files, of which `names` differ."""
        return cls(
            f"the signature is of another bundle: {', '.join(names[:5])} differ",
            expected="the files that were signed",
            remedy=_REMEDY,
        )

    @classmethod
    def unreadable(cls, error: Exception) -> UntrustedBundleError:
        """Return the error of a file that is no signature."""
        return cls(
            f"{SIGNATURE} cannot be read: {type(error).__name__}: {error}"[:200],
            expected="a signature of OpenSSF Model Signing 1.0",
            remedy=_REMEDY,
        )


class SigningKeyError(ConfigError):
    """A file whose key cannot be used."""

    @classmethod
    def of(cls, file: Path, kind: str) -> SigningKeyError:
        """Return the error of a file that holds no key of this kind."""
        return cls(
            f"{file} holds no {kind} key that can be used",
            expected="a PEM file of a key on the curve P-256, P-384 or P-521",
            remedy="openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
            "openssl ec -in key.pem -pubout -out key.pub",
        )


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys, one of which must have signed a bundle.

    Attributes:
        keys: The keys, `cryptography`'s objects, by the file each was read from.
    """

    keys: Mapping[str, Any]

    @classmethod
    def read(cls, files: Sequence[str | Path]) -> TrustedKeys | None:
        """Read public keys from PEM files; with no file at all nothing need be signed.

        Raises:
            ConfigError: A file holds no public key of a supported curve.
            StorageError: It cannot be read.
            MissingExtraError: ``cryptography`` is not installed.
        """
        return cls({str(file): _public_key(Path(file)) for file in files}) if files else None

    def check(self, contents: Mapping[str, bytes]) -> str:
        """Return the file of the key that signed these contents.

        Args:
            contents: Every file of the bundle: the manifest, and the signature if there is one.

        Raises:
            BundleError: There is no signature, or it is not of a trusted key, or it is of other
                files.
        """
        files = dict(contents)
        signature = files.pop(SIGNATURE, None)
        if signature is None:
            raise UntrustedBundleError.unsigned()
        try:
            envelope = orjson.loads(signature)["dsseEnvelope"]
            if envelope["payloadType"] != _PAYLOAD_TYPE:
                raise ValueError("another type of payload")
            payload = base64.b64decode(envelope["payload"], validate=True)
            given = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        except _MALFORMED as error:
            raise UntrustedBundleError.unreadable(error) from None
        for file, key in self.keys.items():
            # the signature before the statement: what is not signed is not read
            if _is_signed(key, given, payload):
                _check_files(payload, files)
                return file
        raise UntrustedBundleError.of_another_key(self.keys)


#: Which keys must have signed a bundle: these, the configured ones, or none.
Trusted = TrustedKeys | Literal["configured"] | None


def sign_bundle(folder: Path, private_key: Path, password: bytes | None = None) -> Path:
    """Sign the bundle in `folder`; an older signature is replaced.

    Args:
        folder: The bundle, verified first.
        private_key: PEM file of an elliptic curve key (P-256, P-384 or P-521).
        password: Of the key's file, if it has one.

    Returns:
        The signature's file.

    Raises:
        BundleError: The bundle is damaged.
        ConfigError: The file holds no such key, or the password is wrong.
        StorageError: The disk refuses.
        MissingExtraError: ``cryptography`` is not installed.
    """
    key = _private_key(private_key, password)
    _, contents = read_verified(folder, BundleLimits())
    contents.pop(SIGNATURE, None)
    # the file's own bytes: what is signed is its checksum
    contents[MANIFEST_NAME] = (folder / MANIFEST_NAME).read_bytes()
    payload = orjson.dumps(_statement(folder.name, contents))
    pem = _pem(key.public_key())
    plain = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [
                {"sig": base64.b64encode(key.sign(_encoded(payload), _ecdsa(key))).decode()}
            ],
        },
    }
    write_bytes(folder / SIGNATURE, orjson.dumps(plain))
    return folder / SIGNATURE


def new_key_pair(
    private_key: Path | None = None, password: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return a private key on P-256 and its public key, as PEM.

    Args:
        private_key: A file whose key is used instead of a new one.
        password: Of that file, if it has one.

    Raises:
        ConfigError: The file holds no such key, or the password is wrong.
        StorageError: It cannot be read.
        MissingExtraError: ``cryptography`` is not installed.
    """
    serialization = _serialization()
    if private_key is not None:
        return read_bytes(private_key), _pem(_private_key(private_key, password).public_key())
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, _pem(key.public_key())


def _statement(name: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    resources = [
        {"name": file, "algorithm": "sha256", "digest": sha256_bytes(content)}
        for file, content in sorted(contents.items())
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(entry["digest"]) for entry in resources))
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": resources,
        },
    }


def _check_files(payload: bytes, contents: Mapping[str, bytes]) -> None:
    """Refuse a statement, already known to be signed, that is about other files than these."""
    try:
        statement = orjson.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
            raise ValueError("a statement about something else")
        resources = statement["predicate"]["resources"]
        if any(entry["algorithm"] != "sha256" for entry in resources):
            raise ValueError("another hash than SHA-256")
        signed = {entry["name"]: entry["digest"] for entry in resources}
        # of two entries `signed` keeps the last, where another reader may take the first
        if len(signed) != len(resources):
            raise ValueError("a file named twice")
    except _MALFORMED as error:
        raise UntrustedBundleError.unreadable(error) from None
    found = {name: sha256_bytes(content) for name, content in contents.items()}
    if signed != found:
        other = sorted(n for n in signed.keys() | found.keys() if signed.get(n) != found.get(n))
        raise UntrustedBundleError.of_other_files(other)


def _encoded(payload: bytes) -> bytes:
    """Return what is really signed: DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _is_signed(key: Any, signature: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _encoded(payload), _ecdsa(key))
    except InvalidSignature:
        return False
    return True


def _ecdsa(key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])())


def _public_key(file: Path) -> Any:
    serialization = _serialization()
    try:
        return _supported(serialization.load_pem_public_key(read_bytes(file)), file)
    except ValueError:
        raise SigningKeyError.of(file, "public") from None


def _private_key(file: Path, password: bytes | None) -> Any:
    serialization = _serialization()
    try:
        key = serialization.load_pem_private_key(read_bytes(file), password)
    except TypeError as error:
        raise SigningKeyError(f"the key in {file} cannot be opened: {error}") from None
    except ValueError:
        raise SigningKeyError.of(file, "private") from None
    return _supported(key, file)


def _supported(key: Any, file: Path) -> Any:
    if getattr(getattr(key, "curve", None), "name", None) not in _HASHES:
        raise SigningKeyError.of(file, "elliptic curve")
    return key


def _pem(public_key: Any) -> bytes:
    serialization = _serialization()
    pem: bytes = public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise MissingExtraError.for_package("cryptography", "signing") from None
    return serialization


@dataclass(frozen=True)
class KeyPair:
    """The files of a workspace's signing key.

    Attributes:
        workspace: The folder of runs, bundles and databases.
    """

    workspace: Path

    @property
    def private(self) -> Path:
        """Signs; readable by its owner only."""
        return self.workspace / "keys" / "signing.pem"

    @property
    def public(self) -> Path:
        """Checks signatures; may be given to anybody."""
        return self.workspace / "keys" / "signing.pub"

    def make(self, public: Path | None = None) -> bool:
        """Make the pair unless the private key exists; a lost public key is written again.

        Args:
            public: Where servers read a copy of the public key; None makes no copy.

        Returns:
            Whether the pair is new.

        Raises:
            StorageError: The disk refuses.
            ConfigError: The private key that exists cannot be used.
            MissingExtraError: ``cryptography`` is not installed.
        """
        # an older key stays: bundles that it signed would no longer be trusted
        new = not self.private.exists()
        pem, shown = new_key_pair(None if new else self.private, password())
        if new:
            _write_private(self.private, pem)
        for file in (self.public, *([public] if public is not None else [])):
            if not file.exists() or file.read_bytes() != shown:
                write_bytes(file, shown)
        return new


def password() -> bytes | None:
    """Return the configured password of the private key."""
    return os.environ.get(PASSWORD, "").encode() or None


def trusted_files(
    workspace: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the files of the keys that are trusted; none when no signature is asked for."""
    found = (os.environ if environment is None else environment).get(VARIABLE)
    if found is not None:
        return tuple(part.strip() for part in found.split(",") if part.strip())
    if workspace is not None and KeyPair(workspace).public.is_file():
        return (str(KeyPair(workspace).public),)
    return ()


def trusted_keys(workspace: Path | None = None) -> TrustedKeys | None:
    """Return the keys that are trusted; None when no signature is asked for.

    Raises:
        ConfigError: A file holds no public key of a supported curve.
        StorageError: It cannot be read.
        MissingExtraError: ``cryptography`` is not installed.
    """
    return TrustedKeys.read(trusted_files(workspace))


def signing_key(workspace: Path, configured: str | None = None) -> Path | None:
    """Return the private key that new models are signed with; None when there is none.

    It is `configured`, or that of TASADOR_SIGNING_KEY, or the workspace's own.
    """
    named = configured or os.environ.get(SIGNING_KEY)
    if named:
        return Path(named)
    own = KeyPair(workspace).private
    return own if own.is_file() else None


def sign_workspace(workspace: Path) -> tuple[int, list[str]]:
    """Sign every bundle of a workspace that has no signature yet.

    For a workspace whose key was made just now: later bundles are signed as they are registered.

    Returns:
        How many were signed, and what could not be signed, in words.

    Raises:
        ConfigError: The private key cannot be used.
    """
    signed, problems = 0, []
    for folder in _bundles(workspace):
        if (folder / SIGNATURE).exists():
            continue
        # a link may lead to somebody else's bundle, which this key must not vouch for
        if not folder.resolve().is_relative_to(workspace.resolve()):
            problems.append(f"{folder} is not in this workspace and was not signed")
            continue
        try:
            sign_bundle(folder, KeyPair(workspace).private, password())
        except ConfigError:
            raise
        except TasadorError as error:
            problems.append(f"{folder.name} was not signed: {error.message}")
        else:
            signed += 1
    return signed, problems


def _bundles(workspace: Path) -> Iterable[Path]:
    from tasador.registry.mlflow_reader import EmbeddedRegistry, local_path
    from tasador.registry.versions import BUNDLE_PATH, OfferedVersion

    found = [file.parent for file in sorted(workspace.glob("bundles/*/manifest.json"))]
    found += [file.parent for file in sorted(workspace.glob("last_good/bundles/*/manifest.json"))]
    registry = EmbeddedRegistry(workspace.resolve() / "mlflow.db")
    deadline = Deadline.after(_READ_S)
    try:
        for name in registry.models(deadline):
            for version in registry.listed(name, deadline):
                offered = OfferedVersion(name, version.number, "")
                place = Path(local_path(registry.locate(offered, deadline))) / BUNDLE_PATH
                if place.is_dir():
                    found.append(place)
    except NothingOfferedError:
        pass  # nothing is registered yet
    return found


def _write_private(file: Path, pem: bytes) -> None:
    """Write a new file that only its owner can read, from its first byte on."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
    except OSError as error:
        raise StorageError(f"cannot write {file}", got=error.strerror) from error
