"""What is installed, reachable and missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import tasador
from tasador.contract.model import SET_ASIDE
from tasador.core.deadlines import Deadline
from tasador.core.errors import MissingExtraError, TasadorError, install_command
from tasador.core.kernels import native
from tasador.core.storage import find_local
from tasador.inference.sources import with_defaults
from tasador.monitoring.settings import read_watch_settings, whom_alerts_reach
from tasador.registry.signature import TrustedKeys, trusted_files
from tasador.settings.run import RunSettings
from tasador.settings.serving import ServeSettings, read_settings, variable

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_READ_S = 10.0
_EXPLAINS = re.compile(r"explains (\d+)% of the target")
_STRONG_PERCENT = 5


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
    yield _registry_protection(settings)
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

    from tasador.inference.sources import build_sources
    from tasador.registry.manifest import MANIFEST_NAME, BundleLimits, read_verified

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


def _registry_protection(settings: ServeSettings) -> Protection:
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


_NEEDED = ("numpy", "scipy", "onnxruntime", "orjson", "PyYAML", "rich", "typer")
_TRAIN = ("scikit-learn", "lightgbm", "polars", "optuna", "onnx", "mlflow", "hydra-core")
_EXTRAS = {
    "gcs": "gcsfs",
    "s3": "s3fs",
    "serve": "fastapi",
    "ui": "streamlit",
    "dist": "ray",
    "wandb": "wandb",
    "boosters": "catboost",
    "postgres": "psycopg",
}
_ROOM_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    state: Literal["ok", "optional", "missing", "off"]
    what: str
    detail: str


def examine(settings: RunSettings) -> Iterator[Finding]:
    """Yield what was found; nothing is changed, and only the configured registry is contacted."""
    workspace = Path(settings.storage.workspace)
    yield Finding("ok", "tasador", f"{tasador.__version__} on Python {sys.version.split()[0]}")
    for package in _NEEDED:
        yield _package(package, "missing", "part of every install: install tasador again")
    for package in _TRAIN:
        yield _package(package, "missing", f"for training: {install_command('train')}")
    for extra, package in _EXTRAS.items():
        yield _package(package, "optional", f"not installed: {install_command(extra)}")
    yield _kernels()
    data = os.environ.get("TASADOR_REAL_DATA")
    if data is None:
        yield Finding("optional", "TASADOR_REAL_DATA", "not set; tables are sought in ./data")
    else:
        state: Literal["ok", "missing"] = "ok" if Path(data).is_dir() else "missing"
        yield Finding(state, "TASADOR_REAL_DATA", data)
    yield _table(settings)
    yield from _set_aside(settings)
    yield _disk(workspace)
    yield _registry(settings)
    yield _alerts()
    yield from _protections(workspace)


def _protections(workspace: Path) -> Iterator[Finding]:
    """Yield what protects a service of this workspace; what is off is no fault on a laptop."""
    try:
        for one in protections(os.environ, workspace):
            yield Finding("ok" if one.on else "off", one.name, one.detail)
    except ImportError as error:  # a part of `serve` that is not installed
        reason = MissingExtraError.for_module((error.name or "").partition(".")[0])
        yield Finding("optional", "protections", str(reason))
    except TasadorError as error:
        yield Finding("off", "protections", str(error))


def _package(name: str, absent: Literal["optional", "missing"], remedy: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(absent, name, remedy)


def _kernels() -> Finding:
    found = native()
    if found.library is not None:
        return Finding("ok", "kernels", f"compiled: {found.reason}")
    return Finding("optional", "kernels", f"{found.reason}; onnxruntime values the rows")


def _disk(workspace: Path) -> Finding:
    folder = workspace.resolve()
    while not folder.exists():
        # the first run makes the workspace; its disk is the nearest parent's
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("missing", "workspace", f"{folder} cannot be written")
    free = shutil.disk_usage(folder).free / 1e9
    state: Literal["ok", "missing"] = "ok" if free > _ROOM_GB else "missing"
    return Finding(state, "workspace", f"{workspace} with {free:,.1f} GB free")


def _table(settings: RunSettings) -> Finding:
    contract = settings.contract
    what = f"table {contract.name}"
    found = find_local(contract.source.paths, settings.download.search)
    if found is not None:
        return Finding("ok", what, str(found))
    if contract.source.url is not None:
        return Finding(
            "optional", what, f"not on disk; would be fetched from {contract.source.url}"
        )
    return Finding("missing", what, f"put it at {' or '.join(contract.source.paths) or 'a path'}")


def _set_aside(settings: RunSettings) -> Iterator[Finding]:
    """Name the columns that are not used though they explain the target."""
    for column in settings.contract.set_aside:
        why = (column.description or "").removeprefix(SET_ASIDE)
        found = _EXPLAINS.search(why)
        if found is not None and int(found[1]) >= _STRONG_PERCENT:
            detail = f"{why}; tasador init --category {column.name}, or its `kind` in the contract"
            yield Finding("optional", f"column {column.name}", detail)


def _registry(settings: RunSettings) -> Finding:
    if not settings.tracking.enabled:
        return Finding("optional", "registry", "switched off (tracking=none)")
    if settings.tracking.uri is None:
        database = Path(settings.storage.workspace) / "mlflow.db"
        if not database.exists():
            return Finding("optional", "registry", f"{database} is made by the first run")
        return _reached(f"sqlite:///{database.resolve()}")
    return _reached(settings.tracking.uri)


def _alerts() -> Finding:
    try:
        reached = read_watch_settings().reached
    except TasadorError as error:
        return Finding("missing", "watcher", str(error))
    return Finding("ok" if reached else "optional", "watcher", whom_alerts_reach(reached))


def _reached(uri: str) -> Finding:
    from tasador.registry.mlflow.registry import check_registry

    try:
        return Finding("ok", "registry", check_registry(uri))
    except TasadorError as error:
        return Finding("missing", "registry", str(error))
