"""The bundle that commands and programs value rows with: the one a service would answer with."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tasador.contract.model import Source, TableContract
from tasador.contract.reader import from_dict
from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    NothingOfferedError,
    SourceError,
    StorageError,
)
from tasador.core.storage import read_bytes
from tasador.data.table_stream import open_table
from tasador.inference.sources import (
    LOCAL,
    MODEL_NAME,
    OBJECT_STORE,
    TRACKING_URI,
    build_sources,
    check_choice,
    known_models,
    unasked,
    with_defaults,
    workspace_registry,
)
from tasador.registry import model_bundle as bundles
from tasador.registry.manifest import MANIFEST_NAME, BundleLimits, Manifest
from tasador.registry.model_bundle import ModelBundle
from tasador.registry.signature import Trusted, TrustedKeys, trusted_files
from tasador.registry.versions import only_model, used_model
from tasador.settings.serving import SourceSettings, read_settings, variable

_FETCH_S = 600.0
#: Tells whether rows that are there could be valued by a model of this contract.
Fits = Callable[[TableContract], bool]


@dataclass(frozen=True)
class BundleChoice:
    """What a command's options say about the model to use.

    Attributes:
        workspace: Folder of bundles and of the embedded registry.
        bundle: A bundle's folder; excludes all that follows.
        model: The registered model; None takes the one that the workspace uses.
        alias: An alias of the registry; None takes the champion.
        version: A registered version instead of an alias.
        registry: The registry's address; None takes the configured one, then the workspace's.
    """

    workspace: Path = Path("workspace")
    bundle: Path | None = None
    model: str | None = None
    alias: str | None = None
    version: str | None = None
    registry: str | None = None


def fits_rows(rows: str, asked: Source | None = None) -> Fits:
    """Return what tells whether a contract's columns are in `rows`: a table's path, or JSON.

    The rows are read when it is called, a table as `open_table` says.
    """

    def fits(contract: TableContract) -> bool:
        text = rows.lstrip()
        if text.startswith(("{", "[")) or rows.endswith(".json"):
            return contract.takes(_keys(rows if text.startswith(("{", "[")) else read_text(rows)))
        with open_table(rows, contract, asked) as table:
            return contract.takes(table.names)

    return fits


def read_text(path: str) -> str:
    """Return the text of a file.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except (StorageError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None


def _keys(text: str) -> list[str]:
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise SourceError(f"not valid JSON: {error}") from None
    if isinstance(plain, dict) and isinstance(plain.get("instances"), list):
        plain = plain["instances"]
    first = plain[0] if isinstance(plain, list) and plain else plain
    return list(first) if isinstance(first, dict) else []


@dataclass(frozen=True)
class Chosen:
    """A bundle's folder, what its source calls it, and the files of the keys that are trusted."""

    folder: Path
    identity: str
    trusted: tuple[str, ...] = ()

    def load(self) -> ModelBundle:
        """Load the bundle, as a service would.

        Raises:
            BundleError: It is damaged, or not signed by a trusted key where there are any.
        """
        return bundles.load_bundle(self.folder, trusted=TrustedKeys.read(self.trusted))


@contextmanager
def chosen_bundle(
    choice: BundleChoice,
    *,
    fits: Fits | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Chosen]:
    """Give the bundle that is meant; a downloaded folder goes when the body ends.

    Args:
        choice: What is asked for.
        fits: Chooses among several models where none was chosen; None never does.
        tell: Called with a line when it is not the champion and nobody has asked for it.

    Raises:
        ConfigError: The options contradict each other, an alias or version cannot be resolved, or
            which of several models is meant is not clear.
        BundleError: There is no bundle.
        RegistryError: The registry cannot be read.
    """
    named = {
        "model": choice.model, "alias": choice.alias, "version": choice.version,
        "registry": choice.registry,
    }  # fmt: skip
    given = [f"--{name}" for name, value in named.items() if value is not None]
    if choice.bundle is not None and given:
        raise ConfigError(f"--bundle and {given[0]} contradict each other", remedy="give one")
    if choice.alias is not None and choice.version is not None:
        raise ConfigError("--alias and --version contradict each other", remedy="give one")
    with tempfile.TemporaryDirectory(prefix="tasador-chosen-") as temporary:
        if choice.bundle is not None:
            trusted = trusted_files(choice.workspace)
            yield Chosen(choice.bundle, str(choice.bundle), trusted)
        else:
            source = source_of(choice, fits)
            if choice.alias is not None or choice.version is not None:
                check_choice(source)
            yield _fetched(source, Path(temporary) / "bundle", tell)


def source_of(choice: BundleChoice, fits: Fits | None = None) -> SourceSettings:
    """Return where the model is looked for: as a service would, with the options before all."""
    environment = dict(os.environ)
    options = {
        TRACKING_URI: choice.registry, MODEL_NAME: choice.model,
        variable("source", "alias"): choice.alias, variable("source", "version"): choice.version,
    }  # fmt: skip
    environment |= {name: value for name, value in options.items() if value is not None}
    if choice.alias is not None or choice.version is not None or choice.registry is not None:
        environment.setdefault(TRACKING_URI, workspace_registry(choice.workspace))
        environment |= {LOCAL: "", OBJECT_STORE: ""}  # they know no aliases
    if fits is not None and not environment.get(MODEL_NAME) and not used_model(choice.workspace):
        names = known_models(environment, choice.workspace)
        if len(names) > 1:
            environment[MODEL_NAME] = _fitting(names, choice, fits)
    return read_settings(environment | with_defaults(environment, choice.workspace)).source


def _fitting(names: list[str], choice: BundleChoice, fits: Fits) -> str:
    """Return the only one of several models whose contract fits."""
    fitting = [name for name in names if _fits(replace(choice, model=name), fits)]
    if not fitting:
        raise ConfigError(
            f"{len(names)} models are registered, and none of their contracts fits these rows",
            expected=f"the columns of one of {', '.join(names[:10])}",
            remedy="name the model with --model to see what does not fit",
        )
    return only_model(fitting)


def _fits(choice: BundleChoice, fits: Fits) -> bool:
    try:
        with chosen_bundle(choice) as chosen:
            manifest = Manifest.from_json(read_bytes(chosen.folder / MANIFEST_NAME))
    except (NothingOfferedError, ConfigError):
        return False  # it has no version that could be used
    return fits(from_dict(dict(manifest.contract)))


def _fetched(source: SourceSettings, destination: Path, tell: Callable[[str], None]) -> Chosen:
    """Fetch what the first source that has something offers."""
    deadline = Deadline.after(_FETCH_S)
    nothing, damaged = list[BundleError](), list[BundleError]()
    for one in build_sources(replace(source, last_good=None)):  # a stale copy is not taken
        try:
            folder, identity = one.fetch(destination, deadline)
        except NothingOfferedError as error:
            nothing.insert(0, error)
            continue
        except BundleError as error:  # the same version may lie among the bundles
            damaged.append(error)
            continue
        line = unasked(source)
        if line:
            tell(line)
        return Chosen(folder, identity, source.trusted_keys)
    none = NothingOfferedError("no source of models is configured", remedy="tasador run")
    raise [*damaged, *nothing, none][0]


def load_bundle(
    folder: str | Path,
    *,
    model: str | None = None,
    alias: str | None = None,
    version: str | None = None,
    check_golden: bool = True,
    threads: int = 1,
    limits: BundleLimits | None = None,
    trusted: Trusted = "configured",
) -> ModelBundle:
    """Load and verify a bundle.

    Args:
        folder: The bundle's folder; or a workspace, from whose registry the champion is taken, as
            by every command. That needs the extra ``serve``.
        model: With a workspace: the model's name, where it holds several.
        alias: With a workspace: another alias than champion.
        version: With a workspace: a version's number instead of an alias.
        check_golden: Whether to value the golden rows and compare with their kept answers.
        threads: How many threads share a batch of rows.
        limits: Sizes above which the bundle is refused.
        trusted: Keys, one of which must have signed the bundle; by default those of
            TASADOR_SOURCE__TRUSTED_KEYS, or the workspace's own. None asks for no signature.

    Raises:
        BundleError: The folder is no bundle, or one that is damaged, incomplete, tampered with, too
            large, of an unknown format, not signed by a trusted key where one is asked for, or
            that answers differently on this machine.
        ConfigError: The alias or version cannot be resolved, or which of several models is meant is
            not clear.
        RegistryError: The workspace's registry cannot be read.

    Example:
        >>> import tasador
        >>> bundle = tasador.load_bundle("cars")
        >>> bundle.version, bundle.origin
        ('cars_model-8c615dec97ef', 'real')
    """

    def load(path: Path, trusted: Trusted) -> ModelBundle:
        return bundles.load_bundle(
            path, check_golden=check_golden, threads=threads, limits=limits, trusted=trusted
        )

    path = Path(folder)
    named = (model, alias, version) != (None, None, None)
    # a workspace holds bundles/; anything else is reported as the bundle that it should be
    if not named and ((path / MANIFEST_NAME).exists() or not (path / "bundles").is_dir()):
        return load(path, trusted)
    choice = BundleChoice(path, model=model, alias=alias, version=version)
    with chosen_bundle(choice) as chosen:
        own = TrustedKeys.read(chosen.trusted) if trusted == "configured" else trusted
        return load(chosen.folder, own)
