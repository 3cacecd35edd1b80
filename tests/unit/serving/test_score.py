import asyncio
import csv
import gzip
import io
import json
import socket
import sys
import threading
import time

import pyarrow
import pyarrow.parquet
import pytest

from tasador.serving.api.valuations import CHUNK
from tasador.settings.serving import LimitSettings

HEADER = "lon,lat,income,rooms,area,kind"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"


def line(i):
    place = f"{-3.0 - i % 100 / 100},{40.0 + i % 90 / 100}"
    rooms = "" if i % 7 == 0 else str(1 + i % 5)
    kind = ("flat", "house", "villa")[i % 3]
    return f"{place},{1 + i % 40 / 10},{rooms},{40 + i % 200},{kind}"


def table(n, header=HEADER):
    return "\n".join([header, *map(line, range(n))]) + "\n"


def send(client, content, kind=CSV, **headers):
    return client.post(
        "/api/v1/score", content=content, headers={"content-type": kind, **headers}, timeout=60
    )


def rows_of(answer):
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def instances(text):
    return [
        {k: v if k == "kind" else float(v) if v else None for k, v in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def test_every_row_of_a_file_gets_the_answer_of_predict(client, running):
    n = 2 * CHUNK + 3
    written = running.writer.status().written
    found = rows_of(send(client, table(n)))
    assert running.writer.status().written == written + n
    expected = client.post("/api/v1/predict", json={"instances": instances(table(n))}).json()
    assert [int(row["row"]) for row in found] == list(range(1, n + 1))
    assert [float(row["prediction"]) for row in found] == [
        p["prediction"] for p in expected["predictions"]
    ]
    assert [(float(row["lower"]), float(row["upper"])) for row in found] == [
        (p["interval"]["lower"], p["interval"]["upper"]) for p in expected["predictions"]
    ]
    assert [row["warnings"] for row in found] == [
        "; ".join(p["warnings"]) for p in expected["predictions"]
    ]
    assert found[0]["warnings"] == "rooms was missing and has been imputed"
    assert len({row["prediction_id"] for row in found}) == n
    assert {row["error"] for row in found} == {""}


def test_the_answer_names_the_version_and_comes_as_json_lines_when_asked(client):
    answer = send(client, table(3), accept="application/x-ndjson")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(text) for text in answer.text.splitlines()]
    assert [found["row"] for found in lines] == [1, 2, 3]
    assert lines[0]["error"] is None
    version = client.get("/api/v1/model/info").json()["model_version"]
    assert answer.headers["x-model-version"] == version


def parquet(text, **types):
    rows = instances(text)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    made = pyarrow.table(
        {
            name: pyarrow.array(values).cast(types[name]) if name in types else values
            for name, values in columns.items()
        }
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(made, file, row_group_size=100)
    return file.getvalue()


def test_parquet_gets_the_same_answers_as_csv(client):
    text = table(300)
    expected = [row["prediction"] for row in rows_of(send(client, text))]
    kinds = pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
    for types in ({}, {"kind": kinds, "rooms": pyarrow.int16()}, {"kind": pyarrow.binary()}):
        found = rows_of(send(client, parquet(text, **types), PARQUET))
        assert [row["prediction"] for row in found] == expected
    whole = "\n".join([HEADER, "-3,40,3,2,100,flat"])
    decimals = parquet(whole, area=pyarrow.decimal128(9, 2))
    assert rows_of(send(client, decimals, "application/x-parquet"))[0]["error"] == ""


@pytest.mark.parametrize("kind", [CSV, "application/octet-stream"])
def test_a_file_may_come_in_a_form(client, kind):
    expected = [row["prediction"] for row in rows_of(send(client, table(5)))]
    answer = client.post("/api/v1/score", files={"file": ("rows.csv", table(5), kind)})
    assert [row["prediction"] for row in rows_of(answer)] == expected
    answer = client.post("/api/v1/score", files={"f": ("a.parquet", parquet(table(5)), kind[:0])})
    assert [row["prediction"] for row in rows_of(answer)] == expected


def test_a_file_may_be_compressed_and_be_written_by_a_spreadsheet(client):
    expected = [row["prediction"] for row in rows_of(send(client, table(5)))]
    compressed = send(client, gzip.compress(table(5).encode()), **{"content-encoding": "gzip"})
    assert [row["prediction"] for row in rows_of(compressed)] == expected
    spreadsheet = "\ufeff" + table(5).replace(",", ";").replace("\n", "\r\n") + "\r\n"
    assert [row["prediction"] for row in rows_of(send(client, spreadsheet))] == expected
    spanish = spreadsheet.replace(".", ",")
    assert [row["prediction"] for row in rows_of(send(client, spanish))] == expected


def test_a_bad_row_gets_its_error_and_the_rest_goes_on(client):
    lines = table(6).splitlines()
    lines[2] = "-3,40,-1,2,100,castle"
    lines[4] = "-3,40"
    lines[5] = "abc,40,3,2,100,flat"
    found = rows_of(send(client, "\n".join(lines)))
    assert [bool(row["error"]) for row in found] == [False, True, False, True, True, False]
    assert found[1]["error"] == (
        "income: expected a number in [0, 100], got '-1'; "
        "kind: expected one of flat, house, villa, got 'castle'"
    )
    assert found[3]["error"] == "expected 6 values, got 2"
    assert found[4]["error"].startswith("lon: expected a number in [-180, 180], got 'abc'")
    assert [bool(row["prediction"]) for row in found] == [True, False, True, False, False, True]
    assert found[1]["prediction_id"] == ""


def test_rows_that_are_no_part_of_the_table_have_no_line_in_the_answer(client):
    lines = [*map(line, range(30)), HEADER, ",,,,,", line(30), "Total,,1,2,3,4,5", "Source: us"]
    expected = rows_of(send(client, table(31)))
    found = rows_of(send(client, "\n".join([HEADER, *lines])))
    numbers = [int(row.pop("row")) for row in found]
    assert numbers == [*range(1, 31), 33, 34]
    assert found.pop()["error"] == "expected 6 values, got 7"  # not a line without cells
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    areas = [40 + i for i in range(31)]
    found = rows_of(send(client, table(31) + f",,,,{sum(areas)},\n"))
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    found = rows_of(send(client, table(31) + f",,,,{sum(areas) + 1},\n"))
    assert "lon: expected a number" in found[-1]["error"]


def test_totals_of_groups_have_no_line_in_the_answer(client):
    def total(start, end):
        return f",,,,{sum(40 + i % 200 for i in range(start, end))},Subtotal"

    lines = [line(i) for i in range(900)]
    expected = rows_of(send(client, table(900)))
    lines[600:600], lines[300:300] = [total(300, 600)], [total(0, 300)]
    found = rows_of(send(client, "\n".join([HEADER, *lines])))
    assert [int(row.pop("row")) for row in found] == [
        *range(1, 301),
        *range(302, 602),
        *range(603, 903),
    ]
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    lines[300] = total(0, 299)
    assert len(rows_of(send(client, "\n".join([HEADER, *lines])))) == 901


def test_bytes_that_are_no_text_and_quotes_without_end_spoil_only_their_rows(client):
    lines = table(4).encode().splitlines()
    lines[2] = lines[2][:-5] + b"\xff\xfe"
    found = rows_of(send(client, b"\n".join(lines)))
    assert [bool(row["error"]) for row in found] == [False, True, False, False]
    lines[2] = b'1,"' + b"x" * (17 << 20) + b'",3,4,5,flat'
    found = rows_of(send(client, b"\n".join(lines)))
    assert "expected at most 4194304 characters" in found[1]["error"]
    assert found[-1]["error"] == ""
    lines[3] = b'1,"2,3,4,5,flat'
    found = rows_of(send(client, b"\n".join([*lines[:2], *lines[3:]])))
    assert found[-1]["error"] == "expected 6 values, got 2 in 2 lines: a quote is never closed"


def test_a_long_text_in_a_column_that_nobody_asked_for_is_no_fault(client):
    lines = table(3).splitlines()
    lines = [f'{line},"{"x" * 300_000 if i else "note"}"' for i, line in enumerate(lines)]
    assert [row["error"] for row in rows_of(send(client, "\n".join(lines)))] == [""] * 3


def test_a_wrong_header_is_refused_before_anything_is_valued(client, running):
    written = running.writer.status().written
    answer = send(client, "lon,lat,income,area,area\n1,2,3,4,5\n")
    assert answer.status_code == 422
    assert [found["loc"] for found in answer.json()["errors"]] == [
        ["header", "kind"],
        ["header", "area"],
    ]
    missing = pyarrow.table({"lon": [1.0]})
    file = io.BytesIO()
    pyarrow.parquet.write_table(missing, file)
    answer = send(client, file.getvalue(), PARQUET)
    assert answer.json()["error"] == "invalid_header"
    assert running.writer.status().written == written


def test_a_nullable_column_may_be_left_out_and_others_may_be_there(client):
    found = rows_of(send(client, "note,kind,area,income,lat,lon\nhello,flat,100,3,40,-3\n"))
    assert found[0]["error"] == ""
    assert found[0]["warnings"] == "rooms was missing and has been imputed"


def test_a_file_without_rows_has_an_answer_without_rows(client):
    assert rows_of(send(client, HEADER)) == []


@pytest.mark.parametrize(
    ("content", "kind", "status", "error"),
    [
        (b"", CSV, 422, "malformed_file"),
        (b"\x00\x01,\x02", CSV, 422, "malformed_file"),
        (b"x" * 3_000_000, CSV, 422, "malformed_file"),
        (b"x" * 3_000, CSV, 422, "invalid_header"),
        (b"PAR1 no PAR1", PARQUET, 422, "malformed_file"),
        (b"{}", "application/json", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
        (b"nothing", "multipart/form-data", 400, "refused"),
        (b"--b--", "multipart/form-data; boundary=b", 422, "malformed_file"),
    ],
)
def test_what_is_no_table_is_refused(client, content, kind, status, error):
    answer = send(client, content, kind)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_a_form_file_of_a_different_type_is_refused(client):
    answer = client.post("/api/v1/score", files={"file": ("rows.xlsx", b"PK", "application/zip")})
    assert answer.status_code == 415


def test_a_damaged_parquet_file_ends_with_an_error_in_its_row(client):
    content = bytearray(parquet(table(3000)))
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    found = rows_of(send(client, bytes(content), PARQUET))
    assert "cannot be read any further" in found[-1]["error"]


def test_without_pyarrow_the_answer_names_the_extra(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    answer = send(client, parquet_bytes, PARQUET)
    assert answer.status_code == 415
    assert "parquet" in answer.json()["remedy"]


parquet_bytes = parquet(table(2))


def test_an_unknown_version_is_404(client):
    answer = client.post(
        "/api/v1/score?model_version=7", content=table(1), headers={"content-type": CSV}
    )
    assert answer.status_code == 404


def test_uploads_have_their_own_limit(serve):
    service = serve(limits=LimitSettings(body_bytes=1000, upload_bytes=20_000))
    with service.client() as client:
        assert len(rows_of(send(client, table(300)))) == 300
        assert send(client, table(2000)).status_code == 413

        def pieces():
            yield HEADER.encode()
            for _ in range(30):
                yield b"x" * 1000

        assert send(client, pieces()).status_code == 413
        bomb = gzip.compress(bytes(5_000_000))
        assert send(client, bomb, **{"content-encoding": "gzip"}).status_code == 413
        assert len(rows_of(send(client, table(300)))) == 300  # nothing is left behind


def test_when_the_client_goes_the_work_stops(client, running):
    n = 200_000
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        body = table(n).encode()
        head = "POST /api/v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.recv(1000)
    end = time.monotonic() + 20
    before = -1
    while time.monotonic() < end:
        now = running.writer.status().written
        if now == before:
            break
        before = now
        time.sleep(0.3)
    assert running.writer.status().written < n
    assert len(rows_of(send(client, table(3)))) == 3


def test_more_files_at_once_than_are_taken_get_retry_after(serve):
    service = serve()
    release = threading.Event()

    def slow():
        yield HEADER.encode() + b"\n"
        release.wait(20)

    with service.client() as client:
        threads = [threading.Thread(target=send, args=(client, slow())) for _ in range(4)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 10
        while service.service.metrics.scrape().count(b"tasador_in_flight 4.0") == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        answer = send(client, table(1))
        release.set()
        for thread in threads:
            thread.join()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert send(client, table(1)).status_code == 200


def test_rows_whose_records_cannot_be_kept_say_so(serve):
    service = serve()

    class Full:
        def submit(self, records):
            from tasador.core.errors import StorageError

            done = asyncio.get_running_loop().create_future()
            done.set_exception(StorageError("full"))
            return done

    service.service.batcher._recorder = Full()
    with service.client() as client:
        found = rows_of(send(client, table(3)))
    assert [row["prediction"] for row in found] == ["", "", ""]
    assert all("record could not be kept" in row["error"] for row in found)
