"""The options that several commands share, each declared once, and what is wrong about options."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasador.core.errors import ConfigError

if TYPE_CHECKING:
    from tasador.settings.serving import ServeLimits

#: Former spellings of options, still taken and in no help.
FORMER_SPELLINGS = {
    "--records": "--database",
    "--tracking-uri": "--registry",
    "--out": "--output",
    "--who": "--by",
}
#: Where all commands look unless another folder is named.
WORKSPACE = Path("workspace")


class OptionsError(ConfigError):
    """Options of a command that lack something, or contradict each other."""

    @classmethod
    def one_table(cls, *, given: bool) -> OptionsError:
        """Return the error of `tasador init` with no table, or with two."""
        return cls(
            "init needs one table",
            expected="a file, or --sql URL QUERY",
            got="both" if given else "neither",
        )

    @classmethod
    def several_contracts(cls, names: Iterable[str]) -> OptionsError:
        """Return the error of a command that does not say which of a project's tables it means."""
        return cls(
            "there are several contracts under conf/dataset",
            expected=f"dataset= with one of {', '.join(names)}",
            remedy="name one",
        )

    @classmethod
    def nothing_to_compare(cls) -> OptionsError:
        """Return the error of `tasador monitor` with one of two tables."""
        return cls(
            "there is nothing to compare with",
            expected="--reference and --current, or neither to monitor what a service recorded",
            remedy="name two tables, e.g. tasador monitor --reference a.parquet --current b.csv",
        )

    @classmethod
    def without(cls, names: Iterable[str]) -> OptionsError:
        """Return the error of `tasador up --without` that names no process, or leaves none."""
        return cls(
            "--without names no process, or all of them",
            expected="some of mlflow, api, ui, watcher",
            got=", ".join(names),
        )

    @classmethod
    def not_empty(cls, folder: Path) -> OptionsError:
        """Return the error of a folder that the demo would write into."""
        text = "the demo's folder is not empty"
        return cls(text, got=str(folder), remedy="name another --workspace")

    @classmethod
    def no_signing_key(cls) -> OptionsError:
        """Return the error of `tasador sign` without a key."""
        expected = "--key FILE, or the workspace's key"
        return cls("no key to sign with", expected=expected, remedy="tasador sign --make-key")

    @classmethod
    def of_max_fsd(cls, got: float) -> OptionsError:
        """Return the error of a limit that no row could be within."""
        return cls("--max-fsd is out of range", expected="a share above 0", got=f"{got:g}")

    @classmethod
    def no_keys_file(cls) -> OptionsError:
        """Return the error of `tasador keys` without a file."""
        remedy = "use --file, or set TASADOR_SECURITY__KEYS_FILE"
        return cls("no keys' file is given", remedy=remedy)


class Engine(StrEnum):
    """What does the work."""

    local = "local"
    ray = "ray"


Workspace = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of runs and bundles")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="SETTING", help="Settings as KEY=VALUE, e.g. dataset=diamonds"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting, e.g. gates.error_margin=0.05; repeatable",
    ),
]

# How a file is read
Sheet = Annotated[
    str | None, typer.Option("--sheet", metavar="NAME|NUMBER", help="Sheet of a workbook")
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of a text, e.g. cp1251", show_default="detected"),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of", metavar="DATE", help="Day to value as of", show_default="each row's own date"
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Share of truths the intervals hold, 0.5 to 0.99",
        show_default="the model's",
    ),
]  # fmt: skip
MaxFsd = Annotated[
    float | None,
    typer.Option(
        "--max-fsd", metavar="SHARE", envvar="TASADOR_SERVE__MAX_FSD", show_envvar=True,
        help="No value if the expected error is larger",
    ),
]  # fmt: skip
MinSupport = Annotated[
    int,
    typer.Option(
        "--min-support", metavar="N", min=0, max=64, envvar="TASADOR_SERVE__MIN_SUPPORT",
        show_envvar=True, help="No value with fewer comparables within reach",
    ),
]  # fmt: skip
NoHeader = Annotated[bool, typer.Option("--no-header", help="The file has no line of column names")]

# Which model a command uses
BundleFolder = Annotated[
    Path | None,
    typer.Option(
        "--bundle", metavar="FOLDER", help="Use this bundle instead of a registered version"
    ),
]
Bundle = Annotated[
    Path | None,
    typer.Argument(help="Bundle folder", show_default="the newest in the workspace"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Registered model",
        show_default="the one in use",
    ),
]  # fmt: skip
Alias = Annotated[
    str | None,
    typer.Option("--alias", metavar="ALIAS", help="Alias in the registry", show_default="champion"),
]
Version = Annotated[
    str | None,
    typer.Option("--version", metavar="VERSION", help="Registered version instead of an alias"),
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="Number, release, alias or bundle version")
]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="URI", help="MLflow tracking URI", show_default="the workspace's"
    ),
]

# What a change of the registry leaves in its history
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", help="URL of the records database",
        show_default="$TASADOR_RECORDS__URL or the workspace's",
    ),
]  # fmt: skip
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who acts", show_default="your user name"),
]
Reason = Annotated[str, typer.Option("--reason", help="Reason, kept in the history")]

# The watcher's
WatchConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", show_default="$TASADOR_WATCH__CONFIG",
        help="YAML of limits, alerts and routes, over those that ship",
    ),
]  # fmt: skip
Retrain = Annotated[
    bool,
    typer.Option(
        "--retrain", envvar="TASADOR_RETRAIN", show_envvar=True,
        help="Retrain and run canaries when a trigger fires",
    ),
]  # fmt: skip

# Work on a cluster
EngineOption = Annotated[
    Engine,
    typer.Option("--engine", help="Work on this machine or on a Ray cluster; same results"),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="ADDRESS", help="auto, host:6379 or ray://host:10001",
        show_default="a cluster started here",
    ),
]  # fmt: skip


def serve_limits(max_fsd: float | None, min_support: int) -> ServeLimits:
    """Return when a row gets no value.

    Raises:
        ConfigError: The largest forecast standard deviation is not above zero.
    """
    from tasador.settings.serving import ServeLimits

    if max_fsd is not None and not max_fsd > 0:
        raise OptionsError.of_max_fsd(max_fsd)
    return ServeLimits(max_fsd, min_support)
