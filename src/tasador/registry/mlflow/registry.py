"""The model registry, kept by MLflow: register a bundle, resolve an alias, fetch a bundle back.

MLflow is imported here and in `client` only, and only when a function is called.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasador.contract.model import TableContract
from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, NothingOfferedError, RegistryError, StorageError
from tasador.registry.mlflow.client import BRISK, open_client, pages, sqlite_file, without_password
from tasador.registry.mlflow.registration import (
    MlflowRun,
    RegisteredVersion,
    describe,
    milliseconds,
    run_tags,
    version_tags,
)
from tasador.registry.mlflow.run_log import log_run, start_run
from tasador.registry.mlflow_reader import registry_reader
from tasador.registry.signature import Trusted
from tasador.registry.versions import ModelVersion, RegistryAddressError, only_model


class NoModelError(RegistryError):
    """A registry without the model that is asked for."""

    @classmethod
    def of(cls, name: str | None, found: Sequence[str]) -> NoModelError:
        """Return the error of a registry that holds the models `found`."""
        return cls(
            f"no model {name!r} is registered" if name else "no model is registered",
            expected=f"one of {', '.join(found[:10])}" if found else None,
            remedy="register one with tasador run",
        )

    @classmethod
    def with_alias(cls, name: str, alias: str) -> NoModelError:
        """Return the error of a model that is not there, or has no such alias."""
        return cls(
            f"there is no model {name!r} with the alias {alias!r}",
            remedy="register one with tasador run, or name another model or alias",
        )

    @classmethod
    def no_registry(cls, uri: str) -> NoModelError:
        """Return the error of an address where there is no registry yet."""
        return cls(
            f"there is no model registry at {without_password(uri)}",
            remedy="train and register a model with tasador run, or name the registry: --registry",
        )


class SyntheticOverRealError(RegistryError):
    """A model trained on generated rows that would take the place of a real one."""

    @classmethod
    def of(cls, name: str, alias: str, version: str, source: str) -> SyntheticOverRealError:
        """Return the error of a run on the rows of `source`; the alias stays with `version`."""
        return cls(
            f"a model trained on synthetic rows must not take the place of a real one; the alias "
            f"{alias!r} of {name} stays with version {version}",
            expected="a run of real origin",
            got=f"origin synthetic ({source})",
            remedy="give the run the real table, or register under another name: "
            f"registry.model_name={name}_synthetic",
        )


class DeletedExperimentError(RegistryError):
    """An experiment that was deleted, and keeps its name all the same."""

    @classmethod
    def of(cls, name: str, identity: str) -> DeletedExperimentError:
        """Return the error of the experiment `name`, which MLflow restores by its `identity`."""
        return cls(
            f"the experiment {name!r} was deleted",
            remedy=f"mlflow experiments restore -x {identity}, or name another one",
        )


class DestinationExistsError(StorageError):
    """A folder that would be overwritten."""

    @classmethod
    def of(cls, folder: Path) -> DestinationExistsError:
        """Return the error of `folder`."""
        return cls(
            "the folder for the bundle exists already",
            got=str(folder),
            remedy="remove it, or name another folder",
        )


_MODEL_FOLDER = "model"
_BUNDLE_PATH = "data/bundle"


def register_bundle(
    bundle_folder: Path,
    *,
    tracking_uri: str,
    experiment: str,
    model_name: str,
    run: MlflowRun,
    alias: str = "staging",
    artifact_root: Path | None = None,
) -> RegisteredVersion:
    """Log a run and register its bundle as a new version that holds `alias`.

    Args:
        bundle_folder: The bundle; loaded first, so a damaged one is never registered.
        tracking_uri: ``sqlite:///workspace/mlflow.db`` or any other that MLflow understands.
        experiment: Name of the experiment; made when it does not exist.
        model_name: Name of the registered model; made when it does not exist.
        run: What is logged.
        alias: The alias that is moved to the new version, last of all.
        artifact_root: Folder of a new experiment's artifacts; by default ``mlartifacts`` beside a
            SQLite database, and the server's own choice elsewhere.

    Returns:
        The new version.

    Raises:
        RegistryError: The registry cannot be reached or refused, or `run` is of synthetic origin
            while `alias` belongs to a version of real origin. The run is marked FAILED, the alias
            stays where it was.
        BundleError: The bundle is damaged.
        MissingExtraError: MLflow is not installed.
    """
    from tasador.registry.model_bundle import load_bundle

    # whether others trust it is decided where it is loaded: here it is made
    contract = load_bundle(bundle_folder, trusted=None).contract
    with open_client(tracking_uri) as client:
        _refuse_synthetic_over_real(client, model_name, alias, run)
        experiment_id = _experiment(client, tracking_uri, experiment, artifact_root)
        parent = start_run(client, experiment_id, run.name(model_name), run.started, run_tags(run))
        try:
            log_run(client, experiment_id, parent, run, contract)
            _upload_model(client, parent, bundle_folder, contract, run.started)
            version = _create_version(client, parent, model_name, alias, run)
            return replace(version, experiment_id=experiment_id)
        # also on Ctrl-C: MLflow shows a run that nobody ended as running for ever
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with suppress(Exception):
                client.set_terminated(parent, status)
            raise


def check_registry(tracking_uri: str) -> str:
    """Return the registry's address, without a password, once it has answered.

    Raises:
        RegistryError: It cannot be reached or refuses.
        MissingExtraError: MLflow is needed to read it and is not installed.
    """
    list_registered(tracking_uri)
    return without_password(tracking_uri)


def resolve_alias(model_name: str, alias: str, *, tracking_uri: str) -> RegisteredVersion:
    """Return the version that holds `alias`.

    Raises:
        RegistryError: There is no such model or alias, or the registry cannot be reached.
    """
    with open_client(tracking_uri) as client:
        return _registered(_holder_or_refuse(client, model_name, alias))


def download_bundle(
    model_name: str, alias: str, *, tracking_uri: str, destination: Path
) -> RegisteredVersion:
    """Fetch the bundle that `alias` points to into the new folder `destination`.

    Every file is checked against the bundle's manifest before the folder appears.

    Raises:
        RegistryError: There is no such model, alias or bundle, or the registry is unreachable.
        BundleError: What arrived is damaged.
        StorageError: `destination` exists already or cannot be written.

    Example:
        >>> import tasador
        >>> from pathlib import Path
        >>> found = tasador.download_bundle(
        ...     "cars_model", "champion", tracking_uri=tracking_uri, destination=Path("champion")
        ... )
        >>> found.name, tasador.load_bundle("champion").version
        ('cars_model', 'cars_model-8c615dec97ef')
    """
    if destination.exists():
        raise DestinationExistsError.of(destination)
    with open_client(tracking_uri) as client:
        version = _holder_or_refuse(client, model_name, alias)
        fetch_bundle(str(version.source), tracking_uri, destination)
        return _registered(version)


def add_to_bundle(source: str, tracking_uri: str, file: Path) -> None:
    """Put `file` into the bundle of a version's `source` within an open client."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(f"{source}/{_BUNDLE_PATH}", tracking_uri=tracking_uri)
    repository.log_artifact(str(file))


def fetch_bundle(
    source: str, tracking_uri: str, destination: Path, trusted: Trusted = "configured"
) -> None:
    """Fetch the bundle of a version's `source` within an open client; see `download_bundle`."""
    import mlflow.artifacts

    from tasador.registry.model_bundle import load_bundle

    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".download-", dir=destination.parent))
    except OSError as error:
        raise StorageError(f"cannot write beside {destination}", got=str(error)) from error
    try:
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{source}/{_BUNDLE_PATH}",
            dst_path=str(holder),
            tracking_uri=tracking_uri,
        )
        # checked beside its place: the folder appears verified, or not at all
        load_bundle(Path(fetched), trusted=trusted)
        Path(fetched).replace(destination)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _experiment(client: Any, tracking_uri: str, name: str, artifact_root: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise DeletedExperimentError.of(name, found.experiment_id)
        return str(found.experiment_id)
    database = sqlite_file(tracking_uri)
    # a server has its own place for artifacts, an embedded registry has none
    root = artifact_root or (database.parent / "mlartifacts" if database else None)
    location = root.resolve().as_uri() if root else None
    return str(client.create_experiment(name, artifact_location=location))


def _upload_model(
    client: Any, parent: str, bundle_folder: Path, contract: TableContract, started: str
) -> None:
    """Store the bundle as a pyfunc model: its folder and the name of the module that loads it."""
    import mlflow.pyfunc
    from mlflow.models import Model

    with tempfile.TemporaryDirectory(prefix="tasador-model-") as name:
        bundle = Path(name) / "bundle"  # under the same name whatever the folder is called
        bundle.symlink_to(bundle_folder.resolve(), target_is_directory=True)
        model = Path(name) / _MODEL_FOLDER
        mlflow.pyfunc.save_model(
            str(model),
            loader_module="tasador.registry.mlflow.pyfunc",
            data_path=str(bundle),
            signature=_signature(contract),
            pip_requirements=[f"tasador=={importlib.metadata.version('tasador')}"],
            metadata={"contract": contract.to_dict()},
            mlflow_model=Model(model_uuid=parent, utc_time_created=started),
        )
        client.log_artifacts(parent, str(model), _MODEL_FOLDER)


def _signature(contract: TableContract) -> Any:
    """Derive the model's signature from the contract.

    Categories are texts. Numbers and dates are `Any`: MLflow refuses whole numbers in a ``double``
    column and missing values in a ``long`` one, while the bundle checks both against the contract
    and says which column is wrong.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = [
        ColSpec(
            DataType.string if column.kind in ("category", "text") else AnyType(),
            column.name,
            required=not column.nullable,
        )
        for column in contract.fields
    ]
    outputs = [ColSpec(DataType.double, contract.target.prediction_name)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _create_version(
    client: Any, parent: str, model_name: str, alias: str, run: MlflowRun
) -> RegisteredVersion:
    """Make the version, end the run, and only then move the alias."""
    _make_registered_model(client, model_name, run)
    uri = client.get_run(parent).info.artifact_uri
    version = client.create_model_version(
        model_name,
        f"{uri}/{_MODEL_FOLDER}",
        run_id=parent,
        tags=version_tags(run),
        description=describe(run, model_name, alias),
    )
    # without its alias the version would be an orphan: it goes with whatever fails here
    try:
        client.set_terminated(parent, "FINISHED", milliseconds(run.started, run.seconds))
        # once more: the upload takes time in which another run may have got the alias
        _refuse_synthetic_over_real(client, model_name, alias, run)
        client.set_registered_model_alias(model_name, alias, str(version.version))
    except BaseException:
        with suppress(Exception):
            client.delete_model_version(model_name, str(version.version))
        raise
    return _registered(version)


def _make_registered_model(client: Any, model_name: str, run: MlflowRun) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            model_name, tags={"dataset": run.dataset}, description=run.title
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _refuse_synthetic_over_real(client: Any, model_name: str, alias: str, run: MlflowRun) -> None:
    holder = _holder(client, model_name, alias)
    if run.origin != "synthetic" or holder is None or holder.tags.get("origin") == "synthetic":
        return
    raise SyntheticOverRealError.of(model_name, alias, holder.version, run.source)


def _holder(client: Any, model_name: str, alias: str) -> Any:
    """Return the version that holds `alias`, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _holder_or_refuse(client: Any, model_name: str, alias: str) -> Any:
    version = _holder(client, model_name, alias)
    if version is None:
        raise NoModelError.with_alias(model_name, alias)
    return version


def _registered(version: Any) -> RegisteredVersion:
    return RegisteredVersion(
        name=str(version.name),
        version=str(version.version),
        run_id=str(version.run_id),
        uri=f"models:/{version.name}/{version.version}",
        tags=dict(version.tags),
    )


_READ_S = 10.0


@dataclass(frozen=True)
class MlflowVersions:
    """See `tasador.registry.versions.Versions` for what each method promises.

    Attributes:
        uri: The registry.
        name: The registered model.
    """

    uri: str
    name: str

    def all(self) -> list[ModelVersion]:
        with self._client() as client:
            aliases = _aliases(client, self.name)
            found = pages(client.search_model_versions, f"name = '{self.name}'")
            versions = [_plain(one, aliases) for one in found]
        return sorted(versions, key=lambda version: -int(version.number))

    def aliases(self) -> dict[str, str]:
        with self._client() as client:
            return _aliases(client, self.name)

    def point(self, alias: str, number: str) -> None:
        with self._client() as client:
            client.set_registered_model_alias(self.name, alias, number)

    def drop(self, alias: str) -> None:
        with self._client() as client:
            client.delete_registered_model_alias(self.name, alias)

    def tag(self, number: str, key: str, value: str) -> None:
        with self._client() as client:
            client.set_model_version_tag(self.name, number, key, value)

    def fetch(self, number: str, destination: Path, trusted: Trusted = "configured") -> None:
        with open_client(self.uri) as client:
            source = str(client.get_model_version(self.name, number).source)
            fetch_bundle(source, self.uri, destination, trusted)

    def add(self, number: str, file: Path) -> None:
        """Put a file beside those of a version's bundle."""
        with open_client(self.uri) as client:
            add_to_bundle(str(client.get_model_version(self.name, number).source), self.uri, file)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with open_client(self.uri, BRISK) as client:
            yield client


@dataclass(frozen=True)
class ReadVersions(MlflowVersions):
    """Versions that are only looked at: all and aliases are read without importing MLflow.

    Where an embedded registry was changed by others and cannot be read again, an older state is
    used with a warning, which is why whoever changes aliases asks MLflow itself.
    """

    def all(self) -> list[ModelVersion]:
        try:
            return registry_reader(self.uri).listed(self.name, Deadline.after(_READ_S))
        except RegistryAddressError:  # of a kind that only MLflow reads
            return super().all()

    def aliases(self) -> dict[str, str]:
        try:
            return registry_reader(self.uri).aliases(self.name, Deadline.after(_READ_S))
        except RegistryAddressError:
            return super().aliases()


def versions_of(uri: str, name: str | None, *, reading: bool = False) -> MlflowVersions:
    """Return the versions of the model `name`; None takes the only one that is registered.

    Args:
        uri: The registry.
        name: The registered model.
        reading: Whether they are only looked at; MLflow is not imported then.

    Raises:
        RegistryError: The registry cannot be reached, is not there, or holds no such model.
        ConfigError: No name was given and several models are registered.
    """
    found = models_of(uri) if reading else registered_models(uri)
    if name is None and found:
        name = only_model(found)
    if name not in found:
        raise NoModelError.of(name, found)
    return (ReadVersions if reading else MlflowVersions)(uri, str(name))


def models_of(uri: str) -> list[str]:
    """Return the names of the models that have a version, in order, without importing MLflow.

    Raises:
        RegistryError: The registry cannot be reached, or is not there.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise NoModelError.no_registry(uri)
    return list_registered(uri)


def registered_models(uri: str) -> list[str]:
    """Return the names of the registered models, in order.

    Raises:
        RegistryError: The registry cannot be reached, or is not there.
    """
    file = sqlite_file(uri)
    # MLflow would make the database: looking at a registry must not leave one behind
    if file is not None and not file.exists():
        raise NoModelError.no_registry(uri)
    with open_client(uri, BRISK) as client:
        return sorted(str(one.name) for one in pages(client.search_registered_models, None))


def list_registered(uri: str) -> list[str]:
    """Return what `registered_models` does, without MLflow's packages where they are not needed."""
    try:
        # MLflow's client takes seconds to import: what is only read is read without it
        return registry_reader(uri).models(Deadline.after(_READ_S))
    except NothingOfferedError:
        return []
    except ConfigError:  # of a kind that only MLflow reads
        return registered_models(uri)


def list_versions(uri: str, name: str) -> list[ModelVersion]:
    """Return a model's versions, the newest first; none when there is no such model or registry.

    Raises:
        RegistryError: The registry cannot be reached.
    """
    try:
        return registry_reader(uri).listed(name, Deadline.after(_READ_S))
    except NothingOfferedError:
        return []
    except ConfigError:  # of a kind that only MLflow reads
        return MlflowVersions(uri, name).all() if name in registered_models(uri) else []


def _aliases(client: Any, name: str) -> dict[str, str]:
    held = client.get_registered_model(name).aliases
    return {str(alias): str(number) for alias, number in held.items()}


def _plain(found: Any, aliases: dict[str, str]) -> ModelVersion:
    number = str(found.version)
    return ModelVersion(
        name=str(found.name),
        number=number,
        created=found.creation_timestamp / 1000.0,
        source=str(found.source),
        tags={str(key): str(value) for key, value in found.tags.items()},
        aliases=tuple(sorted(alias for alias, held in aliases.items() if held == number)),
    )
