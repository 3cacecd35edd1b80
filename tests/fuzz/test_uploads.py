"""Files of any bytes on every road into tasador: an answer or a refusal, in bounded memory.

`pytest tests/fuzz --minutes 60` looks further; without that these are a few seconds.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from fixtures.houses import houses
from fixtures.service import running_service
from fixtures.workbooks import workbook
from tasador.contract.model import Source
from tasador.core.errors import TasadorError
from tasador.data.readers import parse_file
from tasador.inference.model_choice import BundleChoice
from tasador.records.database import Database
from tasador.records.import_export import import_outcomes
from tasador.records.store import RecordStore
from tasador.reporting.review.reading import read_review
from tasador.scoring.files import ScoreRequest, score_files
from tasador.scoring.predict import predict_rows

pytestmark = pytest.mark.no_cover

FRAME = houses(12)
OUTCOMES = b"prediction_id,actual,time\r\nabc,125000,2026-01-31\r\ndef,1e6,\r\n"


def _packed(pack: Callable[[Any], Any]) -> bytes:
    out = io.BytesIO()
    pack(out)
    return out.getvalue()


def _tar(mode: str, content: bytes) -> bytes:
    def pack(out: io.BytesIO) -> None:
        with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
            member = tarfile.TarInfo("houses.csv")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    return _packed(pack)


def _zip(content: bytes) -> bytes:
    def pack(out: io.BytesIO) -> None:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("houses.csv", content)

    return _packed(pack)


CSV = FRAME.write_csv().encode()
ROWS = [list(FRAME.columns), *map(list, FRAME.rows())]
#: Small whole files of every kind that is read.
CORPUS: dict[str, bytes] = {
    "csv": CSV,
    "semicolons": FRAME.write_csv(separator=";").encode("utf-16"),
    "json": FRAME.write_json().encode(),
    "lines": FRAME.write_ndjson().encode(),
    "parquet": _packed(FRAME.write_parquet),
    "plain parquet": _packed(lambda out: FRAME.write_parquet(out, compression="uncompressed")),
    "arrow": _packed(FRAME.write_ipc),
    "xlsx": workbook({"houses": ROWS}),
    "gz": gzip.compress(CSV, mtime=0),
    "tgz": _tar("w:gz", CSV),
    "tar": _tar("w", CSV),
    "zip": _zip(CSV),
    "outcomes": OUTCOMES,
    "bomb": gzip.compress(gzip.compress(bytes(300_000_000), 9, mtime=0), 9, mtime=0),
    "zip bomb": _zip(b"1," * 150_000_000),
}
BYTES = (
    b"\x00", b"\xff", b"\n", b'"', b",", b"\x7f\xff\xff\xff", b"\xff" * 7 + b"\x7f",
    b"\x80\x80\x80\x80\x08", b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"1e999", b"\xf0\x9f\x8f",
    b"[" * 3000, b"9" * 5000, b'{"a":' * 2000, b"\r", b"\xed\xa0\x80", b"NaN", b"<!ENTITY",
)  # fmt: skip
changes = st.lists(
    st.tuples(
        st.sampled_from(["flip", "put", "cut", "drop", "repeat", "splice", "end"]),
        st.floats(0, 1),
        st.floats(0, 0.2),
        st.sampled_from(BYTES) | st.binary(min_size=1, max_size=8),
        st.sampled_from(sorted(set(CORPUS) - {"bomb", "zip bomb"})),
    ),
    max_size=4,
)
uploads = st.tuples(st.sampled_from(sorted(CORPUS)), changes)


def changed(example: tuple[str, list[Any]]) -> bytes:
    """Return a file of the corpus with changes made to its bytes."""
    name, some = example
    data = CORPUS[name]
    for how, share, part, put, other in some:
        at, size = int(share * len(data)), max(1, int(part * len(data)))
        if how == "flip" and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ put[0] or 1]) + data[at + 1 :]
        elif how == "put":
            data = data[:at] + put + data[at + len(put) :]
        elif how == "cut":
            data = data[:at]
        elif how == "drop":
            data = data[:at] + data[at + size :]
        elif how == "repeat":
            data = data[:at] + data[at : at + size] * 3 + data[at + size :]
        elif how == "splice":
            data = data[:at] + CORPUS[other][at:]
        else:
            data = data + put
    return data


@pytest.fixture(scope="module")
def roads(
    house_bundle: Any, written_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Callable[[bytes], object]]]:
    """Every way in which a file of somebody's reaches tasador, by name."""
    folder = tmp_path_factory.mktemp("uploads")
    file = folder / "upload"
    database = Database.open(f"sqlite:///{folder}/outcomes.db")
    store = RecordStore(database)
    choice = BundleChoice(bundle=written_bundle)
    with running_service(folder, house_bundle) as service, service.client(timeout=60) as client:

        def post(route: str, **options: Any) -> str:
            answer = client.post(route, **options)
            assert answer.status_code < 500, f"{route}: {answer.text[:500]}"
            if answer.status_code >= 400:
                assert answer.json()["title"]
            return str(answer.status_code)

        def score(kind: str) -> Callable[[bytes], str]:
            return lambda data: post("/api/v1/score", content=data, headers={"content-type": kind})

        def from_file(read: Callable[[], object]) -> Callable[[bytes], object]:
            def use(data: bytes) -> object:
                file.write_bytes(data)
                return read()

            return use

        out = str(folder / "out.csv")
        yield {
            "read": lambda data: parse_file(data, "upload"),
            "read as a sheet": lambda data: parse_file(data, "upload", Source(sheet=1)),
            "predict": from_file(lambda: predict_rows(str(file), choice)),
            "predict JSON": lambda data: predict_rows("[" + data.decode("latin-1"), choice),
            "score": from_file(
                lambda: score_files(
                    house_bundle, ScoreRequest((str(file),), out, kind="csv", workers=1), str
                )
            ),
            "outcomes": from_file(lambda: import_outcomes(store, file)),
            "review": lambda data: read_review(data, "upload"),
            "API: CSV": score("text/csv"),
            "API: Parquet": score("application/vnd.apache.parquet"),
            "API: form": lambda data: post("/api/v1/score", files={"file": ("u.csv", data)}),
            "API: JSON": lambda data: post(
                "/api/v1/predict", content=data, headers={"content-type": "application/json"}
            ),
            "API: outcomes": lambda data: post(
                "/api/v1/outcomes", content=data, headers={"content-type": "application/json"}
            ),
            "API: invocations": lambda data: post(
                "/invocations", content=data, headers={"content-type": "text/csv"}
            ),
        }
    database.close()


# of a row that is both torn and no UTF-8, Arrow cannot hand on the text
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function _CsvStream")
def test_a_file_of_any_bytes_is_read_or_refused_on_every_road(fuzz, roads):
    def check(example: tuple[str, tuple[str, list[Any]]]) -> str:
        road, upload = example
        data = changed(upload)
        try:
            roads[road](data)
        except TasadorError as error:
            error.add_note(road)
            raise
        return f"{road}: answered"

    examples = st.tuples(st.sampled_from(sorted(roads)), uploads)
    found = fuzz(examples, check, quick=40, share=0.25)
    assert sum(found.values()) > 0
    assert any("answered" in one for one in found)
    assert any("refused" in one for one in found)
