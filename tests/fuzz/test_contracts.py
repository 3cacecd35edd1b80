"""Contracts and tables that nobody meant: they work, or are refused with a message.

`pytest tests/fuzz --minutes 60` looks further; without that these are a few seconds.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import strategies as st

from fixtures import hostile_values as hostile
from fixtures.command_line import run_here
from tasador.contract import reader, sections
from tasador.contract.derived import OPERATIONS
from tasador.contract.encoding import Encoder
from tasador.contract.formats import DURATION_DAYS, EXTRACT_KINDS, WHOLE_DATES
from tasador.contract.model import COLUMN_KINDS, COLUMN_ROLES, TableContract
from tasador.contract.reader import from_dict, read_contract, write_contract
from tasador.contract.row_check import RowCheck
from tasador.core.errors import DataError
from tasador.data.contract_tables import with_levels_learned
from tasador.data.readers import read_source
from tasador.data.table import Table, ValidatedTable
from tasador.data.validation import validate_table
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings

pytestmark = pytest.mark.no_cover

NAMES = ("a", "b", "c", "lon", "lat", "when", "kind", "text", "price", "Größe", "a b", "\u202ex")
#: A contract with each section, which examples change.
WHOLE: dict[str, Any] = {
    "name": "houses",
    "title": "Houses",
    "model_name": "houses_model",
    "columns": {
        "a": {"kind": "number", "bounds": [0, 1000], "unit": "m2", "label": "Area"},
        "b": {"kind": "integer", "nullable": True, "format": {"thousands": ",", "affixes": ["$"]}},
        "c": {"kind": "number", "nullable": True,
              "format": {"decimal": ",", "multipliers": {"k": 1000}, "missing": ["-9"]}},
        "lon": {"kind": "number", "role": "longitude", "bounds": [-180, 180], "nullable": True},
        "lat": {"kind": "number", "role": "latitude", "bounds": [-90, 90], "nullable": True},
        "when": {"kind": "datetime", "role": "timestamp", "nullable": True,
                 "bounds": ["1990-01-01", None], "format": {"dates": ["%d/%m/%Y"]}},
        "kind": {"kind": "category", "categories": ["x", "y"], "open": True, "role": "segment",
                 "case_sensitive": False},
        "text": {"kind": "text", "nullable": True},
        "power": {"kind": "number", "from": "text", "extract": {"before": "HP"}, "nullable": True},
    },
    "derive": {
        "ab": {"ratio": ["a", "b"]},
        "abc": {"sum": ["ab", "c"]},
        "far": {"distance_to": ["lon", "lat"], "points": [[1, 2], [3, 4]]},
        "worth": {"lookup": "kind", "table": {"x": 1, "y": 2}},
    },
    "ratios": {"r": {"numerator": "a", "denominator": "b"}},
    "target": {"name": "price", "unit": "USD", "bounds": [1, 1e7], "transform": "log"},
    "comparables": {"near": ["lon", "lat"], "similar_by": "a", "context": ["b"]},
    "exclude": [{"column": "kind", "in": ["z"], "reason": "no sale"},
                {"column": "price", "below": 1, "reason": "a gift"}],
    "fairness": ["kind"],
    "translations": {"es": {"title": "Casas", "columns": {"a": {"label": "Superficie"}}}},
    "source": {"paths": ["a.csv"], "delimiter": ",", "encoding": "utf-8", "header_row": 1},
}  # fmt: skip
#: The keys that a contract may have, at any depth, and what may stand there.
KEYS = (*reader._TOP, *reader._COLUMN, *reader._TARGET, *reader._FORMAT, *reader._DERIVE,
        *reader._SOURCE, *reader._COMPARABLES, *sections._KEYS, *EXTRACT_KINDS)  # fmt: skip
WORDS = (*NAMES, *KEYS, *COLUMN_KINDS, *COLUMN_ROLES, *OPERATIONS, *DURATION_DAYS, *WHOLE_DATES,
         "log", "none", "missing", "middle", "%Y-%m-%d", "%m/%d/%y %H:%M", "utf-16")  # fmt: skip
anything = (
    st.sampled_from(WORDS)
    | hostile.values
    | st.lists(st.sampled_from(NAMES), max_size=4)
    | st.dictionaries(st.sampled_from(WORDS), st.sampled_from(WORDS) | hostile.plain, max_size=3)
)


def places(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within nested mappings and lists."""
    found = [path] if path else []
    items = plain.items() if isinstance(plain, dict) else ()
    items = enumerate(plain) if isinstance(plain, list) else items
    for key, value in items:
        found += places(value, (*path, key))
    return found


PLACES = places(WHOLE)
changes = st.tuples(
    st.sampled_from(PLACES),
    st.sampled_from(["put", "put", "put", "put", "drop", "add", "copy", "rename"]),
    anything,
    st.sampled_from(WORDS) | hostile.texts | hostile.plain,
    st.sampled_from(PLACES),
)


def at(plain: Any, path: tuple[Any, ...]) -> Any:
    """Return the value at a path; None where an earlier change took it away."""
    for key in path:
        try:
            plain = plain[key]
        except (LookupError, TypeError):
            return None
    return plain


def changed(some: list[Any]) -> dict[str, Any]:
    """Return the whole contract with changes made to it."""
    plain = copy.deepcopy(WHOLE)
    for path, how, value, key, other in some:
        above = at(plain, path[:-1])
        if not isinstance(above, (dict, list)):
            continue
        try:
            if how == "put":
                above[path[-1]] = value
            elif how == "drop":
                del above[path[-1]]
            elif how == "copy":
                above[path[-1]] = copy.deepcopy(at(plain, other))
            elif isinstance(above, dict):
                above[key] = value if how == "add" else above.pop(path[-1])
        except (LookupError, TypeError):  # not there any more
            continue
    return plain


contracts = st.lists(changes, max_size=3).map(changed) | st.dictionaries(
    st.sampled_from(reader._TOP), anything, max_size=6
).map(lambda given: {**copy.deepcopy(WHOLE), **given})
CELLS = ("", "1", "2.5", "-3", "1,234", "$ 5", "x", "Y", "z", "300.0 HP", "31/01/2020",
         "2020-01-31", "nan", "inf", "1e400", "\u0663", "\x00", "\u202e")  # fmt: skip
VALUES = (None, True, 1, 2.5, float("nan"), float("inf"), 10**400, -(2**70), [], {}, b"x", *CELLS)


def rows_for(contract: TableContract, random_: random.Random, n: int) -> list[dict[str, Any]]:
    """Return rows as somebody may send them, most of them wrong."""
    names = [*contract.field_names, *contract.feature_names]
    return [
        {name: random_.choice(VALUES) for name in names if random_.random() < 0.95}
        for _ in range(n)
    ]


def usual_cell(contract: TableContract, name: str, random_: random.Random) -> str:
    """Return a cell that a column is likely to accept."""
    column = next((c for c in contract.columns if c.name == name), contract.target.column)
    low, high = column.bounds
    start = 1.0 if low is None else low
    number = random_.uniform(start, start + 10 if high is None else high)
    if column.kind == "category":
        return random_.choice(column.categories or ("x",))
    if column.kind == "datetime":
        return f"{random_.randint(1991, 2020)}-0{random_.randint(1, 9)}-11"
    text = f"{number:.0f}" if column.kind == "integer" else f"{number:.2f}"
    return text.replace(".", column.format.decimal)


def table_for(contract: TableContract, random_: random.Random, n: int) -> pl.DataFrame:
    """Return a table whose cells are mostly right."""
    names = dict.fromkeys([*(c.name for c in contract.columns if c.derive is None and not c.source),
                           contract.target.name])  # fmt: skip
    return pl.DataFrame(
        {
            name: [
                random_.choice(CELLS)
                if random_.random() < 0.01
                else usual_cell(contract, name, random_)
                for _ in range(n)
            ]
            for name in names
        }
    )


def check_used(contract: TableContract, number: int) -> str:
    """Write it, read it, check rows by it, and fit features on thirty."""
    again = from_dict(contract.to_dict(), contract.name)
    assert again == contract
    assert again.schema_fingerprint == contract.schema_fingerprint
    assert from_dict(yaml.safe_load(write_contract(contract)), contract.name) == contract
    contract.in_language("es").features  # noqa: B018
    random_ = random.Random(number)
    check = RowCheck(Encoder(contract))
    rows = rows_for(contract, random_, 8)
    for row in rows:
        try:
            found = check.row(row)
        except DataError:
            continue
        assert found.shape == (1, len(contract.features))
        np.testing.assert_array_equal(found, check.rows([row]))
    table = Table(table_for(contract, random_, 40), "0" * 64, "real", "fuzz")
    valid = validate_table(table, contract, max_refused_share=0.9, min_rows=20)
    return fitted(contract, valid)


def fitted(contract: TableContract, valid: ValidatedTable) -> str:
    """Fit features on the rows, and transform these."""
    settings = FeatureSettings(clusters=2, comparables=True, cross_fit_folds=3)
    features, Z = FeaturePipeline(contract, settings).fit_transform(valid.X, valid.y)
    assert features.transform(valid.X).shape == Z.shape
    return "fitted"


def check_contract(example: tuple[dict[str, Any], int]) -> str:
    plain, number = example
    return check_used(from_dict(plain), number)


def test_a_contract_of_any_values_works_or_is_refused(fuzz):
    found = fuzz(st.tuples(contracts, st.integers(0, 1000)), check_contract, quick=25, share=0.15)
    assert found["fitted"] > 0
    assert found["refused: InvalidContractError"] > 0


YAML = (
    "a: 2026-02-30", "- &a [*a]", "a: &a {b: *a}", "a: *b", "\t- a", "? [1, 2]\n: 3",
    "!!python/none",
    "!!binary //8=", "a: !!set {x}", "{a: b, a: c}", "0x" + "f" * 5000, "1" * 5000, "[" * 3000,
    "{a: " * 500, "%YAML 9.9", "\x00", "\ufeffa: 1", "---\n---", "&a a: &a b", "<<: [1]", "<<: *x",
    "=", "~", "2026-03-29T02:30:00+99:99", "1:60:60", "\"\\ud800\"", "'\x85'", "a: |\n  b\n c",
    "a: &l [x,x,x,x,x,x,x,x,x]\nb: &m [*l,*l,*l,*l,*l,*l,*l,*l,*l]\nc: &n [*m,*m,*m,*m,*m,*m,*m]\n"
    "d: &o [*n,*n,*n,*n,*n,*n,*n,*n]\ne: &p [*o,*o,*o,*o,*o,*o,*o,*o]\nname: [*p,*p,*p,*p,*p]",
)  # fmt: skip
LINES = (
    yaml.safe_dump(WHOLE, allow_unicode=True, sort_keys=False).encode().splitlines(keepends=True)
)
broken_yaml = st.tuples(
    st.integers(0, len(LINES)),
    st.integers(0, len(LINES)),
    st.sampled_from(YAML).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=20),
    st.sampled_from([b"", b"\n", b"name: ", b"columns: "]),
)


def test_a_file_of_any_bytes_is_a_contract_or_is_refused(fuzz, tmp_path):
    file = tmp_path / "some.yaml"

    def check(example: tuple[int, int, bytes, bytes]) -> str:
        first, second, put, lead = example
        file.write_bytes(b"".join(LINES[:first]) + lead + put + b"\n" + b"".join(LINES[second:]))
        read_contract(file)
        return "read"

    assert fuzz(broken_yaml, check, quick=40, share=0.05)["refused: ContractError"] > 0


columns = st.tuples(
    st.sampled_from(NAMES) | hostile.texts.filter(lambda name: name.isprintable()),
    st.sampled_from(["number", "comma", "date", "level", "code", "any", "same", "empty", "flag"]),
    st.integers(0, 100),
)
tables = st.tuples(
    st.lists(columns, min_size=1, max_size=5),
    st.sampled_from(["number", "comma", "money", "any", "date"]),
    st.integers(1, 60),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), hostile.cells), max_size=6),
)


def made(kind: str, random_: random.Random) -> str:
    """Return a cell of a kind of column."""
    number = random_.lognormvariate(3, 1)
    return {
        "number": f"{number:.2f}", "comma": f"{number:.2f}".replace(".", ","),
        "money": f"$ {1000 * number:,.0f}", "level": random_.choice("xyz"),
        "date": f"{random_.randint(1990, 2020)}-1{random_.randint(0, 2)}-0{random_.randint(1, 9)}",
        "code": f"A{random_.randint(0, 10**6):07}", "same": "1", "empty": "",
        "flag": random_.choice(("yes", "no", "")),
        "any": random_.choice(("1", "x", "", "2020", "3,5", "NA", "-")),
    }[kind]  # fmt: skip


def test_a_table_of_any_cells_gets_a_contract_that_reads_it_or_is_refused(fuzz, tmp_path):
    def check(example: Any) -> str:
        described, target, height, delimiter, encoding, changes = example
        random_ = random.Random(described[0][2])
        kinds = [kind for _, kind, _ in described] + [target]
        cells = [[made(kind, random_) for kind in kinds] for _ in range(height)]
        for row, column, cell in changes:
            cells[row % height][column % len(kinds)] = cell
        head = [name for name, _, _ in described] + ["the target"]
        quoted = [
            [f'"{one.replace(chr(34), chr(34) * 2)}"' for one in row] for row in [head, *cells]
        ]
        text = "\r\n".join(delimiter.join(row) for row in quoted)
        (tmp_path / "t.csv").write_bytes(text.encode(encoding, "replace"))
        words = ("init", "t.csv", "--target", "the target", "--name", "t", "--force", "--yes")
        code, out, err = run_here(tmp_path, *words)
        assert (code == 0) != ("error:" in err), (code, out, err)
        for said in (out, err):
            assert not set(said) & set("\u202e\x00\x1b"), said
        if code:
            return f"init ends with {code}"
        contract = read_contract(tmp_path / "conf" / "dataset" / "t.yaml")
        read = read_source(str(tmp_path / "t.csv"), source=contract.source)
        contract = with_levels_learned(contract, read.frame)
        table = Table(read.frame, "0" * 64, "real", "fuzz")
        valid = validate_table(table, contract, max_refused_share=0.9, min_rows=20)
        return fitted(contract, valid)

    found = fuzz(tables, check, quick=6, share=0.1)
    assert found["fitted"] > 0
