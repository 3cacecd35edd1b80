"""What a service, the watcher and the commands use where no setting says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, NothingOfferedError, RegistryError
from tasador.inference.sources import registry_source
from tasador.registry.bundle.trust import VARIABLE as TRUSTED_KEYS
from tasador.registry.bundle.trust import trusted_files
from tasador.registry.mlflow.client import without_password
from tasador.registry.stores.local import bundle_names
from tasador.registry.stores.mlflow_reader import registry_reader
from tasador.registry.stores.versions import Choice, OfferedVersion, only_model, used_model
from tasador.settings.serving import SourceSettings, variable

_READ_S = 5.0
TRACKING_URI = variable("source", "tracking_uri")
MODEL_NAME = variable("source", "model_name")
LOCAL, OBJECT_STORE = variable("source", "local"), variable("source", "object_store")


def with_defaults(environment: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """Return what to add to the environment so that a laptop needs no setting at all.

    With no source named, what the workspace's registry says is served, or its newest bundle while
    nothing is registered; records and the copy of the last good model lie there too, and the
    public key that `tasador up` makes is trusted.

    Raises:
        ConfigError: Several models are registered and none is chosen.
    """
    added = {
        variable("records", "url"): f"sqlite:///{workspace / 'tasador.db'}",
        variable("source", "last_good"): str(workspace / "last_good"),
        **_own_sources(environment, workspace),
    }
    if trusted := trusted_files(workspace, environment):
        added[TRUSTED_KEYS] = ",".join(trusted)
    added = {name: value for name, value in added.items() if name not in environment}
    found = {**environment, **added}
    if found.get(TRACKING_URI) and not found.get(MODEL_NAME):
        added[MODEL_NAME] = used_model(workspace) or _only(environment, workspace)
    return added


def workspace_registry(workspace: Path) -> str:
    """Return the address of the registry in a workspace."""
    return f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def known_models(environment: Mapping[str, str], workspace: Path) -> list[str]:
    """Return the models of the registry and, unless sources are named, of the workspace's bundles.

    Raises:
        RegistryError: The registry cannot be read.
    """
    own = _own_sources(environment, workspace)
    found, names = {**own, **environment}, set[str]()
    if found.get(TRACKING_URI):
        with suppress(NothingOfferedError):
            names |= set(registry_reader(found[TRACKING_URI]).models(Deadline.after(_READ_S)))
    if own and found.get(LOCAL):
        names |= set(bundle_names(Path(found[LOCAL])))
    return sorted(names)


def _own_sources(environment: Mapping[str, str], workspace: Path) -> dict[str, str]:
    if any(environment.get(name) for name in (TRACKING_URI, OBJECT_STORE, LOCAL)):
        return {}
    return {TRACKING_URI: workspace_registry(workspace), LOCAL: str(workspace / "bundles")}


def _only(environment: Mapping[str, str], workspace: Path) -> str:
    try:
        names = known_models(environment, workspace)
    except RegistryError:  # away: which one it is will be seen when it answers
        return ""
    return only_model(names) if names else ""


def check_choice(source: SourceSettings) -> None:
    """Refuse an alias or a version that cannot be resolved, before anything else is tried.

    Raises:
        ConfigError: No registry is asked, or it has no such alias or version.
        RegistryError: There is no registry where it should be.
    """
    asked = f"version {source.version!r}" if source.version else f"alias {source.alias!r}"
    if not source.tracking_uri:
        raise ConfigError(
            f"the {asked} belongs to a model registry, and none is asked",
            remedy="leave out --bundle and --object-store, or name a registry with --registry",
        )
    try:
        registry_reader(source.tracking_uri).models(Deadline.after(_READ_S))
    except NothingOfferedError as error:
        raise RegistryError(
            f"the {asked} cannot be resolved: there is no model registry at "
            f"{without_password(source.tracking_uri)}",
            remedy=error.remedy,
        ) from None
    except RegistryError:  # away: what is asked for may be there when it answers
        return
    try:
        offered(source)
    except NothingOfferedError as error:
        raise ConfigError(
            f"the {asked} cannot be resolved: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy="see `tasador models`",
        ) from None
    except RegistryError:  # away: what is asked for may be there when it answers
        return


def unasked(source: SourceSettings) -> str:
    """Return a line about the model where it is not the champion and nobody has chosen it.

    Empty when it is, or when the registry cannot be read.
    """
    registry = registry_source(source)
    try:
        if registry is None:
            return ""
        if registry.content_hash(Deadline.after(_READ_S)) is None:
            return "no version is registered: the newest bundle is used"
        found = offered(source)
    except (NothingOfferedError, ConfigError, RegistryError):  # told where it is used
        return ""
    return f"{found.name}: version {found.version} is used ({found.why})" if found.why else ""


def offered(source: SourceSettings) -> OfferedVersion:
    """Return the version that the configured registry says is to answer.

    Raises:
        NothingOfferedError: It has none.
        ConfigError: No model is named and there are several.
        RegistryError: It cannot be read.
    """
    reader = registry_reader(source.tracking_uri or "")
    choice = Choice(source.model_name, source.alias, source.version)
    return choice.find(reader, Deadline.after(_READ_S))
