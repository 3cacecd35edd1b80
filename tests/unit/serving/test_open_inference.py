import gzip
import json
import struct

import numpy as np
import orjson
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.contract.row_check import RowCheck
from tasador.core.errors import ValidationError
from tasador.serving.api.open_inference import read_request
from tasador.settings.serving import LimitSettings

MODEL = "houses_model"
ROWS = [
    {"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 4.0, "area": 100.0, "kind": "flat"},
    {"lon": -3.2, "lat": 40.1, "income": 5.5, "rooms": None, "area": 210.0, "kind": "VILLA"},
    {"lon": -3.9, "lat": 40.9, "income": 1.5, "rooms": 2.0, "area": 45.5, "kind": "house"},
]
ROWS[1]["kind"] = "villa"


@pytest.fixture(scope="module")
def triton(running):
    client = InferenceServerClient(running.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(client):
    answer = client.post("/api/v1/predict", json={"instances": ROWS}).json()
    return [
        (p["prediction"], *(p["interval"][k] for k in ("lower", "upper")))
        for p in answer["predictions"]
    ]


def tensors(rows=ROWS, *, binary=True, shape=lambda n: [n]):
    found = []
    for name in ("lon", "lat", "income", "rooms", "area"):
        tensor = InferInput(name, shape(len(rows)), "FP64")
        values = np.array([np.nan if row[name] is None else row[name] for row in rows])
        tensor.set_data_from_numpy(values.reshape(shape(len(rows))), binary_data=binary)
        found.append(tensor)
    kind = InferInput("kind", shape(len(rows)), "BYTES")
    texts = np.array([row["kind"] for row in rows], dtype=object)
    kind.set_data_from_numpy(texts.reshape(shape(len(rows))), binary_data=binary)
    return [*found, kind]


def answered(result):
    return list(
        zip(
            *(result.as_numpy(name).tolist() for name in ("prediction", "lower", "upper")),
            strict=True,
        )
    )


def body(rows=ROWS, **extra):
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": kind, "data": [r[name] for r in rows]}
        for name, kind in [(n, "BYTES" if n == "kind" else "FP64") for n in ROWS[0]]
    ]
    return {"inputs": inputs, **extra}


def test_a_real_triton_client_finds_the_server_and_its_model(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL)
    assert not triton.is_model_ready("another")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = triton.get_model_metadata(MODEL)
    assert triton.get_model_metadata(MODEL, metadata["versions"][0]) == metadata
    assert [(t["name"], t["datatype"]) for t in metadata["inputs"]] == [
        ("lon", "FP64"),
        ("lat", "FP64"),
        ("income", "FP64"),
        ("rooms", "FP64"),
        ("area", "FP64"),
        ("kind", "BYTES"),
    ]
    assert [t["name"] for t in metadata["outputs"]] == [
        "prediction",
        "lower",
        "upper",
        "prediction_id",
    ]


@pytest.mark.parametrize("shape", [lambda n: [n], lambda n: [n, 1]], ids=["n", "n by 1"])
@pytest.mark.parametrize("compressed", [None, "gzip", "deflate"])
def test_binary_tensors_get_the_answers_of_predict(triton, expected, shape, compressed):
    result = triton.infer(
        MODEL, tensors(shape=shape), request_id="mine", request_compression_algorithm=compressed
    )
    assert answered(result) == expected
    assert result.get_response()["id"] == "mine"
    ids = [text.decode() for text in result.as_numpy("prediction_id").tolist()]
    assert len(set(ids)) == 3
    assert all(len(text) == 36 for text in ids)


def test_tensors_in_json_get_the_answers_of_predict(triton, expected):
    rows = [{**row, "rooms": row["rooms"] or 3.0} for row in ROWS]
    outputs = [InferRequestedOutput(n, binary_data=False) for n in ("prediction", "lower", "upper")]
    result = triton.infer(MODEL, tensors(rows, binary=False), outputs=outputs)
    assert answered(result)[0] == expected[0]
    assert answered(result)[2] == expected[2]


def test_nan_in_json_is_a_missing_value_and_infinity_is_refused(client, triton, expected):
    assert answered(triton.infer(MODEL, tensors(binary=False))) == expected
    endless = [{**row, "income": float("inf")} for row in ROWS]
    for binary in (True, False):
        with pytest.raises(InferenceServerException, match="invalid_rows"):
            triton.infer(MODEL, tensors(endless, binary=binary))


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_of_true_and_false_are_the_levels_of_that_name(binary):
    plain = {"name": "lift", "datatype": "BOOL", "shape": [3]}
    if binary:
        plain["parameters"] = {"binary_data_size": 3}
        head = json.dumps({"inputs": [plain]}).encode()
        found = read_request(head + b"\x01\x00\x01", str(len(head)).encode(), 10).rows
    else:
        plain["data"] = [True, False, True]
        found = read_request(json.dumps({"inputs": [plain]}).encode(), None, 10).rows
    lift = Column("lift", "category", categories=("False", "True"))
    encoder = Encoder(TableContract("t", "T", "t", (lift,), Target("y")))
    assert RowCheck(encoder).rows(found)[:, 0].tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValidationError, match=r"row 1: .*one of False, True, got 1"):
        RowCheck(encoder).rows([{"lift": 1}])


def test_json_takes_null_for_missing_and_nested_columns(client, expected):
    request = body()
    for tensor in request["inputs"]:
        tensor["shape"] = [3, 1]
        tensor["data"] = [[value] for value in tensor["data"]]
    answer = client.post(f"/v2/models/{MODEL}/infer", json=request).json()
    assert answer["outputs"][0]["data"] == [row[0] for row in expected]
    assert answer["outputs"][0]["shape"] == [3]


def test_an_empty_text_and_a_left_out_column_are_missing_values(triton, expected):
    texts = InferInput("rooms", [3], "BYTES")
    texts.set_data_from_numpy(np.array([b"4", b"", b"2"], dtype=object))
    others = [tensor for tensor in tensors() if tensor.name() != "rooms"]
    assert answered(triton.infer(MODEL, [*others, texts])) == expected
    assert answered(triton.infer(MODEL, others))[1] == expected[1]


def test_numbers_of_other_datatypes_are_read(triton, expected):
    rooms = InferInput("rooms", [3], "INT32")
    rooms.set_data_from_numpy(np.array([4, 1, 2], dtype=np.int32))
    others = [tensor for tensor in tensors() if tensor.name() != "rooms"]
    found = answered(triton.infer(MODEL, [*others, rooms]))
    assert (found[0], found[2]) == (expected[0], expected[2])


def test_only_the_outputs_that_are_asked_for_are_answered(triton, expected):
    wanted = [InferRequestedOutput("upper"), InferRequestedOutput("prediction", binary_data=False)]
    result = triton.infer(MODEL, tensors(), outputs=wanted)
    assert [output["name"] for output in result.get_response()["outputs"]] == [
        "upper",
        "prediction",
    ]
    assert result.as_numpy("upper").tolist() == [row[2] for row in expected]
    assert result.as_numpy("prediction").tolist() == [row[0] for row in expected]
    assert result.as_numpy("lower") is None


def test_a_version_may_be_named_and_an_unknown_one_is_404(triton, client):
    version = client.get("/api/v1/model/info").json()["model_version"]
    assert (
        triton.infer(MODEL, tensors(), model_version=version).get_response()["model_version"]
        == version
    )
    with pytest.raises(InferenceServerException, match="unknown_version"):
        triton.infer(MODEL, tensors(), model_version="7")
    for path in ("", "/ready", "/versions/7", "/versions/7/ready"):
        name = MODEL if "versions" in path else "another"
        answer = client.get(f"/v2/models/{name}{path}")
        assert answer.status_code == 404
        assert {"type", "title", "status", "detail", "instance", "error"} <= set(answer.json())
    assert client.post("/v2/models/another/infer", json=body()).json()["error"] == "unknown_model"


def test_a_bad_row_is_named_by_its_place_and_column(client):
    rows = [ROWS[0], {**ROWS[0], "income": -1.0, "kind": "castle"}]
    answer = client.post(f"/v2/models/{MODEL}/infer", json=body(rows))
    assert answer.status_code == 422
    assert [found["loc"] for found in answer.json()["errors"]] == [
        ["inputs", 1, "income"],
        ["inputs", 1, "kind"],
    ]


def changed(index=0, **changes):
    request = body()
    request["inputs"][index] = {**request["inputs"][index], **changes}
    return request


BAD = {
    "no inputs": {},
    "empty inputs": {"inputs": []},
    "no objects": {"inputs": [3]},
    "no name": {"inputs": [{"shape": [1], "datatype": "FP64", "data": [1]}]},
    "no list": [],
    "scalar shape": changed(shape=3),
    "wide shape": changed(shape=[3, 2]),
    "boolean shape": changed(shape=[True]),
    "negative shape": changed(shape=[-3]),
    "huge shape": changed(shape=[10**9]),
    "other length": changed(shape=[2], data=[1, 2]),
    "same name": changed(name="lat"),
    "unknown datatype": changed(datatype="COMPLEX"),
    "no data": changed(data=None),
    "too few data": changed(data=[1.0]),
    "deep data": changed(data=[[[1]], [[1]], [[1]]]),
    "bytes that are not there": changed(parameters={"binary_data_size": 24}),
    "bytes of no number": changed(parameters={"binary_data_size": "24"}),
    "unknown output": body(outputs=[{"name": "gradient"}]),
    "outputs of no list": body(outputs={"name": "lower"}),
    "output without a name": body(outputs=["lower"]),
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
def test_tensors_that_are_invalid_are_refused_with_their_place(client, request_):
    answer = client.post(f"/v2/models/{MODEL}/infer", content=orjson.dumps(request_))
    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_tensors"
    assert answer.json()["errors"][0]["loc"]


def binary(request_, tail, length=None):
    head = orjson.dumps(request_)
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return {"content": head + tail, "headers": headers}


def with_bytes(tail, kind="FP64", name="kind"):
    request_ = body()
    request_["inputs"] = [t for t in request_["inputs"] if t["name"] != name]
    tensor = {
        "name": name,
        "shape": [3],
        "datatype": kind,
        "parameters": {"binary_data_size": len(tail)},
    }
    return {**request_, "inputs": [*request_["inputs"], tensor]}


TEXT = struct.pack("<I", 4) + b"flat"
BAD_BYTES = {
    "length of no number": binary(body(), b"", "x"),
    "length beyond the end": binary(body(), b"", 10**6),
    "bytes left over": binary(body(), b"abc"),
    "too few numbers": binary(with_bytes(bytes(16)), bytes(16)),
    "too few texts": binary(with_bytes(TEXT * 2, "BYTES"), TEXT * 2),
    "too many texts": binary(with_bytes(TEXT * 4, "BYTES"), TEXT * 4),
    "text cut off": binary(with_bytes((TEXT * 3)[:-1], "BYTES"), (TEXT * 3)[:-1]),
    "text of huge length": binary(with_bytes(b"\xff" * 12, "BYTES"), b"\xff" * 12),
    "no UTF-8": binary(
        with_bytes((TEXT * 2 + struct.pack("<I", 1) + b"\xff"), "BYTES"),
        TEXT * 2 + struct.pack("<I", 1) + b"\xff",
    ),
}


@pytest.mark.parametrize("sent", BAD_BYTES.values(), ids=BAD_BYTES)
def test_binary_data_that_are_invalid_are_refused(client, sent):
    answer = client.post(f"/v2/models/{MODEL}/infer", **sent)
    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_tensors"


def test_a_compressed_body_inflates_no_further_than_the_limit(serve):
    service = serve(limits=LimitSettings(body_bytes=10_000))
    with service.client() as client:
        for bomb, status in (
            (gzip.compress(bytes(50_000_000)), 413),
            (gzip.compress(orjson.dumps(body()))[:-9], 422),
            (gzip.compress(orjson.dumps(body())) + b"more", 422),
            (b"not compressed", 422),
        ):
            assert len(bomb) < 60_000
            answer = client.post(
                f"/v2/models/{MODEL}/infer",
                content=bomb[:9_999],
                headers={"Content-Encoding": "gzip"},
            )
            assert answer.status_code == status
        answer = client.post(
            f"/v2/models/{MODEL}/infer", content=b"x", headers={"Content-Encoding": "br"}
        )
        assert answer.status_code == 415


def test_nothing_is_ready_without_a_model(serve):
    service = serve(None)
    with service.client() as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 503
        assert client.post(f"/v2/models/{MODEL}/infer", json=body()).status_code == 503


def test_every_row_is_recorded_under_its_id(triton, running):
    written = running.writer.status().written
    triton.infer(MODEL, tensors())
    assert running.writer.status().written == written + 3
