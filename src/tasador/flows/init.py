"""Start a project: write a contract for somebody's table."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tasador.core.errors import ConfigError
from tasador.core.files import write_text
from tasador.data.contract_reader import read_contract, write_contract
from tasador.data.infer import infer_contract, is_plain_name

_HEADER = """Contract written by `tasador init`; read it through and correct what it assumed.
Kinds: number, integer, category, datetime, identifier, text (carried, never used)."""


@dataclass(frozen=True)
class WrittenContract:
    """What was written, and on which assumptions."""

    name: str
    path: Path
    assumptions: tuple[str, ...]
    leaks: tuple[str, ...]


def write_new_contract(
    file: str,
    target: str,
    *,
    name: str | None,
    force: bool,
    project: Path,
    categories: Collection[str] = (),
) -> WrittenContract:
    """Infer a contract from `file` and write it to ``conf/dataset/<name>.yaml`` of `project`.

    `categories` are columns that are categories, whatever they look like.

    Raises:
        ConfigError: The name cannot be one, or a contract of that name exists and `force` is not
            given.
        DataError: The file cannot be read, or the target is not a number to estimate.
    """
    if name is not None and not is_plain_name(name):
        raise ConfigError(
            f"{name!r} cannot be a contract's name",
            expected="a letter, then letters, digits, '_' and '-'; not null, true or the like",
            remedy="choose another --name",
        )
    inference = infer_contract(file, target, name=name, categories=categories)
    contract = inference.contract
    path = project / "conf" / "dataset" / f"{contract.name}.yaml"
    if path.exists() and not force:
        raise ConfigError(
            f"{path} exists already", remedy="choose another --name, or --force to replace it"
        )
    if "://" not in file:
        source = dataclasses.replace(contract.source, paths=(str(Path(file).resolve()),))
        contract = dataclasses.replace(contract, source=source)
    notes = [f"assumed: {line}" for line in inference.assumptions]
    notes += [f"possible leak, set aside: {line}" for line in inference.leaks]
    write_text(path, write_contract(contract, "\n".join([_HEADER, "", *notes])))
    read_contract(path)  # what was written must be read back before anybody relies on it
    return WrittenContract(
        contract.name, path, tuple(inference.assumptions), tuple(inference.leaks)
    )
