"""Which protections of a service are off, and what switches each on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tasador.core.deadlines import Deadline
from tasador.core.errors import TasadorError
from tasador.registry.signature import TrustedKeys
from tasador.registry.trust import trusted_files
from tasador.serving.defaults import with_defaults
from tasador.serving.settings import ServeSettings, read_settings, variable

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_READ_S = 10.0


@dataclass(frozen=True, slots=True)
class Protection:
    """One protection that was looked at.

    Attributes:
        name: What it is.
        on: Whether it is in force.
        detail: How it is set, or what to set.
    """

    name: str
    on: bool
    detail: str


def protections(environment: Mapping[str, str], workspace: Path) -> Iterator[Protection]:
    """Yield the protections of a service that this environment and workspace would start.

    Only the configured registry is read, and files of the workspace are looked at.

    Raises:
        ConfigError: A setting is not valid, or which of several models is served is not clear.
    """
    settings = read_settings({**environment, **with_defaults(environment, workspace)})
    yield _keys(settings)
    yield _trust(environment, workspace)
    yield _signed(settings, workspace)
    yield _registry(settings)
    yield _files(workspace)
    yield _rate(settings)
    yield _hosts(settings)
    yield _transport(settings)


def _keys(settings: ServeSettings) -> Protection:
    on = bool(settings.security.keys or settings.security.keys_file)
    return Protection(
        "API keys", on,
        "requests need one" if on else "none: whoever reaches the service may use it; "
        f"tasador keys new NAME --file keys.txt, {variable('security', 'keys_file')}=keys.txt",
    )  # fmt: skip


def _trust(environment: Mapping[str, str], workspace: Path) -> Protection:
    files = trusted_files(workspace, environment)
    return Protection(
        "trusted keys", bool(files),
        ", ".join(files) if files else "none: any model is served; tasador sign --make-key, or "
        f"{variable('source', 'trusted_keys')}=signing.pub",
    )  # fmt: skip


def _signed(settings: ServeSettings, workspace: Path) -> Protection:
    """Look at the signature of the bundle that would be served, without loading it."""
    import tempfile

    from tasador.registry.manifest import MANIFEST_NAME
    from tasador.registry.verify import BundleLimits, read_verified
    from tasador.serving.sources import build_sources

    what = "signed model"
    keys = settings.source.trusted_keys
    for source in build_sources(settings.source):
        with tempfile.TemporaryDirectory(prefix="tasador-doctor-") as folder:
            try:
                found, identity = source.fetch(Path(folder) / "bundle", Deadline.after(_READ_S))
                manifest, contents = read_verified(found, BundleLimits())
            except TasadorError:
                continue
            try:
                trusted = TrustedKeys.read(keys) or TrustedKeys({})
                trusted.check({**contents, MANIFEST_NAME: manifest.to_json()})
            except TasadorError as error:
                reason = error.message if keys else "no key is trusted that could have signed it"
                return Protection(
                    what, False, f"{identity}: {reason}; tasador sign --alias champion "
                    f"--workspace {workspace}",
                )  # fmt: skip
            return Protection(what, True, identity)
    return Protection(what, False, "no model is there yet; tasador run")


def _registry(settings: ServeSettings) -> Protection:
    uri = settings.source.tracking_uri or ""
    what = "registry"
    if not uri.startswith(("http://", "https://")) or urlsplit(uri).hostname in _LOOPBACK:
        return Protection(what, True, "on this machine only")
    known = "@" in uri or any(
        os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "TOKEN")
    )
    if uri.startswith("https://") and known:
        return Protection(what, True, "reached with credentials over TLS")
    return Protection(
        what, False, "an address in a network without TLS or credentials: whoever reaches it may "
        "register a model; https:// and MLFLOW_TRACKING_TOKEN, or a network of its own",
    )  # fmt: skip


def _files(workspace: Path) -> Protection:
    found = [
        path
        for pattern in ("*.db*", "keys/*.pem", "spool*/*")
        for path in sorted(workspace.glob(pattern))
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if not found:
        return Protection("files", True, "databases and keys are their owner's only")
    names = " ".join(str(path) for path in found[:5])
    return Protection("files", False, f"others may read or write them; chmod 600 {names}")


def _rate(settings: ServeSettings) -> Protection:
    rate = settings.limits.rate_per_s
    if rate > 0:
        return Protection("rate limit", True, f"{rate:g} requests a second for each client")
    return Protection("rate limit", False, f"none; {variable('limits', 'rate_per_s')}=50")


def _hosts(settings: ServeSettings) -> Protection:
    hosts = settings.security.allowed_hosts
    if hosts:
        return Protection("host names", True, ", ".join(hosts))
    return Protection(
        "host names", False, f"any; {variable('security', 'allowed_hosts')}=values.example.org"
    )


def _transport(settings: ServeSettings) -> Protection:
    host = settings.server.host
    if host in _LOOPBACK:
        return Protection("TLS", True, f"listens on {host} only; put a proxy with TLS before it")
    return Protection(
        "TLS", False, f"listens on {host} without TLS; {variable('server', 'host')}=127.0.0.1 "
        "behind a proxy that has it, or let only that proxy reach it",
    )  # fmt: skip
