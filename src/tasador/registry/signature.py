"""Signed bundles: who made it, where the manifest's checksums only say that nothing changed.

A signature is the file ``model.sig`` in the bundle's folder, in the format of OpenSSF Model Signing
1.0 with an elliptic curve key: an in-toto statement that names the SHA-256 of every file, the
manifest included, in a DSSE envelope in a Sigstore bundle. ``model_signing verify key`` accepts
what is written here, and the other way round; a test does both. That tool itself is not used: it
brings 30 packages and a version of protobuf that exporting models excludes, and all that a key
takes of it is here, on ``cryptography`` alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from tasador.core.errors import BundleError, ConfigError, MissingExtraError
from tasador.core.hashing import sha256_bytes
from tasador.core.storage import read_bytes, write_bytes
from tasador.registry.integrity import SIGNATURE, BundleLimits, read_verified
from tasador.registry.manifest import MANIFEST_NAME

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
#: Curves of the format, and the hash that goes with each.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_REMEDY = "do not use this bundle; have it signed by whoever is trusted: tasador sign"
#: What reading a signature that is none raises.
_MALFORMED = (KeyError, ValueError, TypeError, IndexError, AttributeError)


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
            raise BundleError(
                "the bundle is not signed", expected=f"a {SIGNATURE} by a trusted key",
                remedy=_REMEDY,
            )  # fmt: skip
        try:
            envelope = orjson.loads(signature)["dsseEnvelope"]
            if envelope["payloadType"] != _PAYLOAD_TYPE:
                raise ValueError("another type of payload")
            payload = base64.b64decode(envelope["payload"], validate=True)
            given = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        except _MALFORMED as error:
            raise _unreadable(error) from None
        for file, key in self.keys.items():
            if _is_signed(key, given, payload):
                _check_files(payload, files)
                return file
        raise BundleError(
            "the bundle was not signed by a key that is trusted",
            expected=f"a signature of {', '.join(self.keys)}",
            remedy=_REMEDY,
        )


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
        if len(signed) != len(resources):
            raise ValueError("a file named twice")
    except _MALFORMED as error:
        raise _unreadable(error) from None
    found = {name: sha256_bytes(content) for name, content in contents.items()}
    if signed != found:
        other = sorted(n for n in signed.keys() | found.keys() if signed.get(n) != found.get(n))
        raise BundleError(
            f"the signature is of another bundle: {', '.join(other[:5])} differ",
            expected="the files that were signed",
            remedy=_REMEDY,
        )


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
        raise _no_key(file, "public") from None


def _private_key(file: Path, password: bytes | None) -> Any:
    serialization = _serialization()
    try:
        key = serialization.load_pem_private_key(read_bytes(file), password)
    except TypeError as error:
        raise ConfigError(f"the key in {file} cannot be opened: {error}") from None
    except ValueError:
        raise _no_key(file, "private") from None
    return _supported(key, file)


def _supported(key: Any, file: Path) -> Any:
    if getattr(getattr(key, "curve", None), "name", None) not in _HASHES:
        raise _no_key(file, "elliptic curve")
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


def _no_key(file: Path, kind: str) -> ConfigError:
    return ConfigError(
        f"{file} holds no {kind} key that can be used",
        expected="a PEM file of a key on the curve P-256, P-384 or P-521",
        remedy="openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
        "openssl ec -in key.pem -pubout -out key.pub",
    )


def _unreadable(error: Exception) -> BundleError:
    return BundleError(
        f"{SIGNATURE} cannot be read: {type(error).__name__}: {error}"[:200],
        expected="a signature of OpenSSF Model Signing 1.0",
        remedy=_REMEDY,
    )
