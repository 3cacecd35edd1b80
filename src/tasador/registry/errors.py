"""The errors of bundles that are put together."""

from __future__ import annotations

from tasador.core.errors import BundleError
from tasador.registry.manifest import FETCH_AGAIN, GOLDEN

#: Fewest golden rows of a bundle: as many as are written.
GOLDEN_ROWS = 20


class MisfitError(BundleError):
    """A bundle whose parts were not made for each other."""

    @classmethod
    def of(cls, expected: str, got: str) -> MisfitError:
        """Return the error of a part that is not the one another part needs."""
        return cls("the bundle's parts do not fit together", expected=expected, got=got)


class GoldenRowsError(BundleError):
    """Golden rows that cannot be read, or that get other answers than where they were written."""

    @classmethod
    def unreadable(cls, p: int, error: Exception) -> GoldenRowsError:
        """Return the error of a file that is not one of golden rows of `p` columns."""
        return cls(
            f"{GOLDEN} is damaged",
            expected=f"X (k, {p}) and prediction (k,), k from {GOLDEN_ROWS}",
            got=str(error),
        )

    @classmethod
    def incomplete(cls, rows: int) -> GoldenRowsError:
        """Return the error of fewer rows than are written."""
        return cls(
            f"{GOLDEN} is incomplete",
            expected=f"at least {GOLDEN_ROWS} golden rows",
            got=str(rows),
            remedy="register the model again",
        )

    @classmethod
    def differ(cls, row: int, want: float, got: float) -> GoldenRowsError:
        """Return the error of another answer than the one that was kept."""
        return cls(
            "the bundle answers differently on this machine than where it was made",
            expected=f"{want!r} for golden row {row}",
            got=repr(got),
            remedy="install the library versions named in the manifest's lineage",
        )

    @classmethod
    def not_finite(cls) -> GoldenRowsError:
        """Return the error of answers that are NaN or infinite."""
        return cls(
            "the bundle's answers are no numbers",
            expected="finite estimates and intervals for the golden rows",
            remedy=FETCH_AGAIN,
        )
