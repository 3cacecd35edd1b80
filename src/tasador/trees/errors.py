"""What can be wrong with models and their files; each class holds the fixed parts of its messages.

::

    TrainingError
    ├── TreesError              arrays that are no trees, or rows that do not fit them
    ├── TooLargeError           trees that the compiled kernels have no room for
    └── ExportError             a library's model that has no exact form here
    ValidationError
    └── RowShapeError           rows of another number of columns than the model's
    BundleError
    └── ModelFileError          a model file that tasador did not write
"""

from __future__ import annotations

from tasador.core.errors import BundleError, TrainingError, ValidationError


class TreesError(TrainingError):
    """Arrays that are no trees."""

    @classmethod
    def lengths(cls, lengths: set[int], n_roots: int) -> TreesError:
        """Return the error of arrays that do not fit together."""
        return cls(
            "the trees cannot be read",
            expected="one entry per node in every array and at least one root",
            got=f"lengths {sorted(lengths)} and {n_roots} roots",
        )

    @classmethod
    def column(cls, column: int, n_features: int) -> TreesError:
        """Return the error of a split on a column outside of the rows."""
        return cls(
            "a tree splits on a column that does not exist",
            expected=f"columns below {n_features}",
            got=f"column {column}",
        )

    @classmethod
    def no_number(cls) -> TreesError:
        """Return the error of NaN in a threshold, or of a leaf that is not finite."""
        return cls(
            "a tree holds a value that is not a number",
            expected="no NaN in thresholds, finite leaf values",
            remedy="look for inf or NaN in the training target",
        )

    @classmethod
    def rows(cls, shape: tuple[int, ...], n_features: int) -> TreesError:
        """Return the error of rows of another number of columns."""
        return cls(
            "the rows do not fit the trees",
            expected=f"shape (n, {n_features})",
            got=f"shape {shape}",
        )

    @classmethod
    def sets(cls, expected: str, got: str) -> TreesError:
        """Return the error of category sets."""
        return cls("the trees' category sets are invalid", expected=expected, got=got)

    @classmethod
    def no_trees(cls, got: str) -> TreesError:
        """Return the error of branches that form something else than trees."""
        return cls("the trees are no trees", expected="every node below one root", got=got)


class LinearError(TrainingError):
    """A linear model's ranges that are none, or not those of another."""

    @classmethod
    def range(cls) -> LinearError:
        """Return the error of ends that no input lies between."""
        return cls(
            "a linear model's range is invalid",
            expected="a finite low and high for each column, low <= high",
            remedy="look for inf or NaN in the training features",
        )

    @classmethod
    def ranges(cls) -> LinearError:
        """Return the error of linear models that were fitted on different rows or columns."""
        return cls(
            "linear models of different ranges cannot be averaged into one model",
            expected="models fitted on the same rows",
        )


class TooLargeError(TrainingError):
    """Trees that the compiled kernels have no room for: onnxruntime values them."""

    @classmethod
    def of(cls, what: str, most: str) -> TooLargeError:
        """Return the error of trees of which `what` is said, where a kernel holds `most`."""
        return cls(f"{what} for the kernel", expected=most)


class ExportError(TrainingError):
    """A library's model that has no exact form here."""

    @classmethod
    def of(cls, what: str, remedy: str) -> ExportError:
        """Return the error of a model, and how to train one that is exported."""
        return cls(f"the model cannot be exported exactly: {what}", remedy=remedy)


class RowShapeError(ValidationError):
    """Rows of another number of columns than the model's."""

    @classmethod
    def of(cls, shape: tuple[int, ...], n_features: int) -> RowShapeError:
        """Return the error of rows of this shape."""
        return cls(
            "the rows do not fit the model",
            expected=f"shape (n, {n_features})",
            got=f"shape {shape}",
            remedy="transform the rows with the features of the same bundle",
        )


class ModelFileError(BundleError):
    """A model file that tasador did not write."""

    @classmethod
    def not_ours(cls, error: Exception) -> ModelFileError:
        """Return the error of a graph that `onnx_export` does not write, or that is damaged."""
        return cls(
            "the model cannot be loaded",
            expected="an ONNX graph as tasador writes it",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="fetch the bundle again, or register the model again",
        )

    @classmethod
    def not_run(cls, error: Exception) -> ModelFileError:
        """Return the error of a graph that onnxruntime refuses."""
        return cls(
            "the model cannot be loaded",
            expected="an ONNX graph that onnxruntime runs",
            got=str(error).splitlines()[0][:200],
            remedy="register the model again; the file was not written by tasador",
        )

    @classmethod
    def interface(cls, error: Exception) -> ModelFileError:
        """Return the error of a graph with other inputs or outputs."""
        return cls(
            "the model has another interface",
            expected="input X [None, q] and output score [None, 1], both double",
            got=str(error)[:100],
        )

    @classmethod
    def features(cls, wanted: int | None, taken: int) -> ModelFileError:
        """Return the error of a model that takes another number of features."""
        return cls(
            "the bundle's parts do not fit together",
            expected=f"{wanted} features",
            got=f"{taken} taken by the model",
        )
