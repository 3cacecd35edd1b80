"""`SourceSettings`: where a service gets its model from, and how long it waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from tasador.core.errors import ConfigError

SOURCE_NAMES = ("mlflow", "object_store", "local", "last_good")


@dataclass(frozen=True)
class SourceSettings:
    """Where bundles come from; a source that is not configured is passed over.

    Attributes:
        model_name: The model's name in the registry; also picks one out of a folder of bundles.
            Empty: the only model of the registry, and a folder's newest bundle.
        alias: The registry's alias to follow. Empty: the champion; before there is one, the newest
            version that was neither rejected nor rolled back.
        version: A registered version to use instead of an alias: its number, the bundle's version
            or 7 digits of its content hash; null follows the alias.
        order: The sources, in the order in which they are tried.
        tracking_uri: The registry: ``http(s)://`` of an MLflow server, or ``sqlite:///`` of the
            embedded one.
        object_store: Where bundles are published: ``gs://bucket/prefix``, ``s3://bucket/prefix``
            or a folder.
        local: A bundle's folder, or a folder of them.
        last_good: Folder for a copy of the bundle that last served; null keeps none.
        poll_s: Seconds between two looks at what the sources offer.
        poll_jitter: Share of `poll_s` by which each pause is made longer or shorter by chance.
        answer_s: Seconds in which a source must say what it offers, with all retries.
        hop_deadline_s: Seconds in which a bundle must be fetched and loaded, with all retries.
        connect_s: Seconds for one connection.
        read_s: Seconds of silence on one connection.
        attempts: Most attempts of one question or download.
        breaker_failures: Failures in a row after which a source is left alone.
        breaker_reset_s: Seconds for which it is.
        refused_again_s: Most seconds until a refused bundle is tried again (first after
            2 s, then each time after twice as long), while there is no
            model at all. With a model it is not, until the source offers another one.
        threads: Threads that share a batch of rows.
        trusted_keys: PEM files of public keys; when there are any, a bundle that none of them
            signed is refused, wherever it comes from, by the service and by every command. Empty:
            the workspace's ``keys/signing.pub`` if it exists. Needs the extra ``signing``.
    """

    model_name: str = ""
    alias: str = ""
    version: str | None = None
    order: tuple[str, ...] = SOURCE_NAMES
    tracking_uri: str | None = None
    object_store: str | None = None
    local: str | None = None
    last_good: str | None = None
    poll_s: float = 8.0
    poll_jitter: float = 0.2
    answer_s: float = 5.0
    hop_deadline_s: float = 30.0
    connect_s: float = 2.0
    read_s: float = 5.0
    attempts: int = 3
    breaker_failures: int = 5
    breaker_reset_s: float = 60.0
    refused_again_s: float = 900.0
    threads: int = 1
    trusted_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.order if name not in SOURCE_NAMES]
        if unknown or len(set(self.order)) != len(self.order):
            raise ConfigError(
                "the order of the sources cannot be meant",
                expected=f"each of {', '.join(SOURCE_NAMES)} at most once",
                got=", ".join(self.order),
            )
        times = ("poll_s", "answer_s", "hop_deadline_s", "connect_s", "read_s", "breaker_reset_s")
        for name in times:
            if not 0.0 < getattr(self, name) < 86_400.0:
                raise ConfigError(
                    f"{name} cannot be meant",
                    expected="seconds, above 0 and below a day",
                    got=str(getattr(self, name)),
                )
        if self.attempts < 1 or self.breaker_failures < 1 or not 0.0 <= self.poll_jitter < 1.0:
            raise ConfigError(
                "the settings of the sources cannot be meant",
                expected="attempts >= 1, breaker_failures >= 1, 0 <= poll_jitter < 1",
                got=f"{self.attempts}, {self.breaker_failures}, {self.poll_jitter}",
            )
