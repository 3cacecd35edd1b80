"""What can go wrong with a model's lifecycle; each class holds the fixed parts of its messages.

::

    RegistryError
    └── AliasUpdateError        an alias is not changed, or half: somebody else's work, an outage
    StorageError
    └── ResultNotNotedError     an alias was changed, and the database does not have it
    ConfigError
    ├── NotAllowedError         a version that may not have the place, or not leave it, like this
    ├── NoChampionError         a champion or challenger is asked for, and there is none
    ├── CanaryError             an experiment that cannot begin
    ├── LineageError            a bundle that does not say how it was trained
    └── UnknownModelError       a model that is neither registered nor in the workspace
    GateError
    └── GatesRefuseError        a version that a gate refuses, or cannot tell about
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasador.core.errors import ConfigError, GateError, RegistryError, StorageError, TasadorError

_FORCE = "--force --reason TEXT, which is recorded"


class AliasUpdateError(RegistryError):
    """An alias is not changed, or is changed and its tags are not."""

    @classmethod
    def being_changed(cls, model: str, other: str, lease_s: float) -> AliasUpdateError:
        """Return the error of a model whose lease somebody else holds."""
        return cls(
            f"{model} is being changed by {other}",
            remedy=f"try again when that has ended; what died ends within {lease_s:.0f} s",
        )

    @classmethod
    def overtaken(cls, model: str) -> AliasUpdateError:
        """Return the error of a lease that ended before the work under it."""
        return cls(
            f"somebody else took over {model} meanwhile, since this took too long",
            remedy="see tasador history, then try again",
        )

    @classmethod
    def unfinished(cls, operation: str, error: TasadorError) -> AliasUpdateError:
        """Return the error of an operation in force, whose further writes failed."""
        return cls(
            f"{operation} is in force, but the registry failed before its tags and other aliases "
            f"were set: {error.message}",
            got=error.got,
            remedy="the next change sets them",
        )

    @classmethod
    def undecided(cls, operation: str, error: TasadorError) -> AliasUpdateError:
        """Return the error of a registry that cannot be asked what it took."""
        return cls(
            f"the registry failed during {operation}; whether it took the change is not known",
            got=error.got or error.message,
            remedy="see tasador models once it answers; the next change puts the history and the "
            "tags in order, and servers go on with what they have",
        )

    @classmethod
    def refused(cls, operation: str, error: TasadorError) -> AliasUpdateError:
        """Return the error of a change that the registry did not take."""
        return cls(
            f"the registry refused {operation}; nothing has changed: {error.message}",
            got=error.got,
            remedy=error.remedy,
        )

    @classmethod
    def champion_moved(cls, number: str, expected: str, now: str) -> AliasUpdateError:
        """Return the error of a version that was compared with a champion which is none now."""
        return cls(
            f"the champion changed from {expected or 'none'} to {now or 'none'} while version "
            f"{number} was compared with it",
            remedy="see tasador history; promote again to compare with the new champion",
        )

    @classmethod
    def earlier_deleted(cls, number: str, left: Sequence[str]) -> AliasUpdateError:
        """Return the error of a roll-back to a version that is gone; `left` are earlier ones."""
        return cls(
            f"the champion before was version {number}, which was deleted from the registry",
            remedy=f"go back further: tasador rollback --to {left[0]}"
            if left
            else "promote another version: tasador promote",
        )


class ResultNotNotedError(StorageError):
    """An alias was changed, and the database does not have the result."""

    @classmethod
    def of(cls, operation: str, error: TasadorError) -> ResultNotNotedError:
        """Return the error of an operation in force."""
        return cls(
            f"{operation} is in force, but its result could not be noted: {error.message}",
            remedy="the next change notes that the alias was moved, without who and why",
        )


class NotAllowedError(ConfigError):
    """A version that may not get a place, or leave it, in this way."""

    @classmethod
    def unknown_place(cls, alias: str, known: Iterable[str]) -> NotAllowedError:
        """Return the error of an alias that is none of the lifecycle's."""
        return cls(f"{alias!r} is no place for a version", expected=f"one of {', '.join(known)}")

    @classmethod
    def of_status(cls, number: str, status: str, reason: str | None) -> NotAllowedError:
        """Return the error of a version that was rejected or rolled back."""
        return cls(
            f"version {number} is {status}",
            got=reason or None,
            remedy=f"take another version, or {_FORCE}",
        )

    @classmethod
    def is_champion(cls, number: str) -> NotAllowedError:
        """Return the error of a champion that would be rejected."""
        return cls(f"version {number} is the champion", remedy="roll back first: tasador rollback")

    @classmethod
    def never_champion(cls, number: str, earlier: Iterable[str]) -> NotAllowedError:
        """Return the error of a roll-back to a version that was not champion before."""
        return cls(
            f"version {number} has not been champion",
            expected=f"one of {', '.join(dict.fromkeys(earlier)) or '(none)'}",
            remedy="let it pass the gates: tasador promote",
        )

    @classmethod
    def no_earlier(cls, model: str, champion: str) -> NotAllowedError:
        """Return the error of a roll-back from the first champion."""
        return cls(
            f"{model} has had no champion before version {champion or 'none'}",
            remedy="promote another version: tasador promote",
        )


class NoChampionError(ConfigError):
    """A place in which there is no version."""

    @classmethod
    def to_retrain(cls, model: str) -> NoChampionError:
        """Return the error of a retraining."""
        return cls(f"{model} has no champion to retrain", remedy="tasador promote VERSION")

    @classmethod
    def for_canary(cls, model: str, alias: str) -> NoChampionError:
        """Return the error of a canary that lacks one of its two versions."""
        return cls(f"{model} has no {alias}", remedy=f"tasador promote VERSION --to {alias}")


class CanaryError(ConfigError):
    """An experiment that cannot begin."""

    @classmethod
    def running(cls, number: str) -> CanaryError:
        """Return the error of a second experiment beside the one with the version `number`."""
        return cls(
            f"a canary of version {number} is running",
            remedy="wait for its end, or stop it: tasador canary stop",
        )

    @classmethod
    def of_stages(cls, stages: Sequence[float]) -> CanaryError:
        """Return the error of shares that do not grow to the end."""
        return cls(
            "these stages are invalid",
            expected="growing shares of the traffic from 0 (shadow only) to 1",
            got=", ".join(f"{share:g}" for share in stages),
        )


class GatesRefuseError(GateError):
    """A version that a gate refuses, or cannot tell about."""

    @classmethod
    def of(cls, number: str, alias: str, gates: Iterable[str]) -> GatesRefuseError:
        """Return the error of a promotion; `gates` are the results that do not pass."""
        return cls(
            f"version {number} is not promoted to {alias}",
            got="; ".join(gates),
            remedy=f"train a better one, or {_FORCE}",
        )


class LineageError(ConfigError):
    """A bundle whose lineage does not say enough to train it again."""

    @classmethod
    def of_settings(cls, version: str, commit: str, error: ConfigError) -> LineageError:
        """Return the error of a setting that this version of tasador does not have."""
        return cls(
            f"{version} was trained with settings that this tasador does not take: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=f"use the code it was trained with: {commit}",
        )

    @classmethod
    def of_table(cls, version: str, error: KeyError) -> LineageError:
        """Return the error of a lineage without its table."""
        return cls(
            f"the lineage of {version} does not name its table: {error}",
            remedy="train and promote a version with this tasador first",
        )


class UnknownModelError(ConfigError):
    """A model that is neither registered nor a bundle in the workspace."""

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> UnknownModelError:
        """Return the error of `name` beside those that are known."""
        return cls(
            f"there is no model {name!r}",
            expected=f"one of {', '.join(known) or '(none)'}",
            remedy="train it with `tasador run`",
        )
