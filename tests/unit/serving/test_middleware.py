"""What an attacker sends, to a real server over real sockets."""

import gzip
import json
import logging
import re
import socket
import threading
import time

import httpx
import orjson
import pytest

from tasador.core.logging import JsonFormatter
from tasador.serving.http.auth import new_key
from tasador.serving.http.server import GuardedProtocol
from tasador.settings.serving import LimitSettings, SecuritySettings

REFUSAL = {"type", "title", "status", "detail", "instance", "error", "request_id", "errors"}
TEXTS = {"expected", "got", "remedy"}
PREDICT = "/api/v1/predict"
JSON = {"content-type": "application/json"}


def raw(port, sent, timeout=10.0):
    """Send bytes and return everything that comes back until the connection closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(sent)
        return drained(connection)


def drained(connection):
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def request(body=b"", *, method="POST", path=PREDICT, close=True, **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def refused(answer, status, error):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) - TEXTS == REFUSAL
    assert found["error"] == error
    assert answer.headers["x-request-id"] == found["request_id"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert (found["type"], found["status"]) == (f"/problems#{error}", status)
    assert found["instance"] == f"urn:tasador:request:{found['request_id']}"
    assert isinstance(found["title"], str)
    assert isinstance(found["detail"], str)
    return found


@pytest.fixture(scope="module")
def guarded(house_bundle, tmp_path_factory):
    """A service behind the guarded protocol, with short deadlines and small limits."""
    from fixtures.service import running_service

    before = GuardedProtocol.header_timeout_s
    GuardedProtocol.header_timeout_s = 0.6
    with running_service(
        tmp_path_factory.mktemp("guarded"),
        house_bundle,
        limits=LimitSettings(request_s=0.8, body_bytes=100_000),
        uvicorn_options={"http": GuardedProtocol, "timeout_keep_alive": 3, "ws": "none"},
    ) as found:
        yield found
    GuardedProtocol.header_timeout_s = before


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "NaN": b'{"instances": [{"income": NaN}]}',
    "Infinity": b'{"instances": [{"income": Infinity}]}',
    "number beyond floats": b'{"instances": [{"income": 1e999}]}',
    "deep": b"[" * 90_000 + b"]" * 90_000,
    "no UTF-8": b'{"instances": [{"kind": "\xff"}]}',
    "half a surrogate": b'{"instances": [{"kind": "\\ud800"}]}',
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_no_json_is_refused(client, body):
    refused(client.post(PREDICT, content=body), 422, "malformed_json")


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"1", b"{}", b'{"instances": null}', b'{"instances": {}}',
             b'{"instances": []}', b'{"instances": "rows"}'],
)  # fmt: skip
def test_a_body_without_rows_is_refused(client, body):
    refused(client.post(PREDICT, content=body), 422, "invalid_request")


DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize(
    "value",
    [10**30, -(10**30), 1e308, True, [], {}, "x" * 50_000, "1e999", "infinity", DEEP, {"a": DEEP}],
    ids=["huge", "tiny", "float", "true", "list", "object", "text", "overflow", "word", "deep",
         "deeper"],
)  # fmt: skip
def test_an_invalid_value_is_named_and_shown_short(client, house, value):
    body = json.dumps({"instances": [{**house, "income": value}]})
    found = refused(client.post(PREDICT, content=body), 422, "invalid_rows")
    assert found["errors"][0]["loc"] == ["instances", 0, "income"]
    assert len(found["errors"][0]["got"]) <= 80


def test_a_row_that_cannot_be_recorded_whole_fails_nobody(client, running, house):
    deep = json.dumps({"instances": [{**house, "note": DEEP}, {**house, "long": "x" * 100_000}]})
    expected = client.post(PREDICT, json={"instances": [house]}).json()["predictions"]
    found = client.post(PREDICT, content=deep).json()["predictions"]
    assert [row["prediction"] for row in found] == [expected[0]["prediction"]] * 2


@pytest.mark.parametrize("colon", [":", ": ", " : "])
def test_a_field_given_twice_is_refused_and_not_decided(client, house, colon):
    row = json.dumps({**house, "note": 'a": b'}, separators=(",", colon))
    twice = f'{row[:-1]},"income"{colon}3.5}}'
    for path in (PREDICT, "/api/v1/explain", "/invocations"):
        assert client.post(path, content=f'{{"instances":[{row}]}}', headers=JSON).is_success
        answer = client.post(path, content=f'{{"instances":[{row},{twice}]}}', headers=JSON)
        assert refused(answer, 422, "duplicate_field")["errors"][0]["loc"] == ["body", "income"]
    twice = f'{{"instances":[{row}],"instances":[{row}]}}'
    refused(client.post(PREDICT, content=twice), 422, "duplicate_field")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/jsonp", 415),
        ("application/json-patch", 415),
        ("text/plain", 415),
        ("text/plain; x=application/json", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
@pytest.mark.parametrize("path", [PREDICT, "/api/v1/explain"])
def test_only_json_is_read_as_json(client, house, path, kind, status):
    answer = client.post(
        path, content=orjson.dumps({"instances": [house]}), headers={"content-type": kind}
    )
    assert answer.status_code == status
    if status == 415:
        refused(answer, 415, "unsupported_media_type")


def test_a_compressed_body_is_read_and_a_bomb_is_not(client, house):
    body = gzip.compress(orjson.dumps({"instances": [house]}))
    for path in (PREDICT, "/api/v1/explain"):
        assert (
            client.post(path, content=body, headers={"content-encoding": "gzip"}).status_code == 200
        )
        bomb = gzip.compress(bytes(100_000_000))
        assert len(bomb) < 100_000
        refused(
            client.post(path, content=bomb, headers={"content-encoding": "gzip"}),
            413, "body_too_large",
        )  # fmt: skip


def test_the_limits_hold_to_the_byte_and_the_row(guarded, serve, house):
    with guarded.client() as client:
        room = 100_000 - len(orjson.dumps({"instances": [house], "x": ""}))
        for extra, status in ((0, 200), (1, 413)):
            body = orjson.dumps({"instances": [house], "x": "y" * (room + extra)})
            assert client.post(PREDICT, content=body).status_code == status
            assert client.post(PREDICT, content=iter([body[:7], body[7:]])).status_code == status
    with serve(limits=LimitSettings(batch=3)).client() as client:
        for count, status in ((3, 200), (4, 422)):
            answer = client.post(PREDICT, json={"instances": [house] * count})
            assert answer.status_code == status


def test_slow_headers_and_silent_connections_are_ended(guarded):
    start = time.monotonic()
    answer = raw(guarded.port, b"POST /api/v1/predict HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert set(json.loads(answer.split(b"\r\n\r\n", 1)[1])) - TEXTS == REFUSAL
    assert b"content-type: application/problem+json" in answer
    assert raw(guarded.port, b"") == b""
    assert raw(guarded.port, b"\r\n\r\n\r\n") == b""
    assert time.monotonic() - start < 10


def test_headers_a_byte_at_a_time_are_ended_too(guarded):
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        end = time.monotonic() + 8
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        closed = False
        while not closed and time.monotonic() < end:
            try:
                connection.sendall(b"x")
            except OSError:
                closed = True
            time.sleep(0.05)
        assert closed


def test_a_second_request_on_a_connection_has_its_own_deadline(guarded):
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(request(method="GET", path="/health", close=False))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(0.7)  # idle longer than headers may take: no harm
        connection.sendall(request(method="GET", path="/health", close=False))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\nHo")
        assert drained(connection).startswith(b"HTTP/1.1 408")


def test_a_slow_body_is_ended_and_its_place_is_free_again(guarded):
    answer = raw(guarded.port, request(b"{", close=False).replace(b"gth: 1", b"gth: 100"))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"slow_body"' in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 300_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 30_000, b"431"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", b"400"),
    ],
    ids=["long URL", "long header", "many headers", "TLS", "version", "method", "header name",
         "space before colon", "two lengths", "length and chunks", "chunks not last",
         "negative length", "huge length"],
)  # fmt: skip
def test_what_is_no_proper_http_is_refused_in_our_schema_and_the_connection_closed(
    guarded, sent, status
):
    answer = raw(guarded.port, sent)
    if answer:  # a reset may overtake the answer when much more was sent than was read
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in head
        assert set(json.loads(body)) - TEXTS == REFUSAL
    else:
        assert len(sent) > 65536


def test_pipelined_requests_are_answered_in_their_order(guarded, house):
    bodies = [orjson.dumps({"instances": [house] * n}) for n in (1, 2, 3)]
    sent = b"".join(request(body, close=n == 2) for n, body in enumerate(bodies))
    answers = raw(guarded.port, sent).split(b"HTTP/1.1 200 OK")[1:]
    assert [answer.count(b"prediction_id") for answer in answers] == [1, 2, 3]


def test_head_is_answered_as_get_without_its_body(client):
    for path in ("/health", "/", "/metrics", "/v2/health/live"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "GET"])
def test_another_method_is_405_with_the_ones_allowed(client, method):
    answer = client.request(method, PREDICT)
    assert answer.status_code == 405
    assert answer.json()["error"] == "wrong_method"
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/nothing", PREDICT + "/", "/%2e%2e/etc/passwd", "/health/"])
def test_unknown_paths_are_404_and_never_a_redirect(client, path):
    refused(client.post(path), 404, "unknown_path")


def test_every_answer_carries_the_security_headers(client, house):
    for answer in (
        client.post(PREDICT, json={"instances": [house]}),
        client.get("/health"),
        client.get("/nothing"),
        client.post(PREDICT, content=b"{"),
        client.get("/docs"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-123", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ('a","b":"c', False),
        ("<script>", False),
        ("ä".encode().decode("latin-1"), False),
    ],
)
def test_a_request_id_is_kept_when_it_is_harmless(client, sent, kept):
    answer = client.get("/health", headers={b"x-request-id": sent.encode("latin-1")})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.headers["x-request-id"]


def test_counters_are_never_named_by_the_caller(serve, house):
    service = serve(security=SecuritySettings(keys=(new_key("a", "client")[1].line(),)))
    with service.client() as client:
        for n in range(5):
            assert client.get(f"/secret{n}").status_code == 401
            assert client.post(f"/v2/models/m{n}/infer").status_code == 401
        client.post(PREDICT)
        client.get("/health")
        metrics = client.get("/metrics").text
    assert "/secret" not in metrics
    assert "/m1/" not in metrics
    counted = set(re.findall(r'method="(\w+)",route="([^"]+)",status="(\d+)"} (\d+)', metrics))
    assert counted == {
        ("GET", "(other)", "401", "5"),
        ("POST", "(other)", "401", "5"),
        ("POST", PREDICT, "401", "1"),
        ("GET", "/health", "200", "1"),
    }


def test_a_route_with_a_name_in_its_path_is_counted_by_its_pattern(client):
    client.get("/v2/models/houses_model")
    client.get("/v2/models/other")
    metrics = client.get("/metrics").text
    assert 'route="/v2/models/{name}",status="200"}' in metrics
    assert "/v2/models/other" not in metrics


def test_pages_of_other_origins_are_kept_out_unless_they_are_named(client, serve, house):
    ask = {"origin": "https://app.example", "access-control-request-method": "POST",
           "access-control-request-headers": "x-api-key,content-type"}  # fmt: skip
    assert "access-control-allow-origin" not in client.options(PREDICT, headers=ask).headers
    key, line = new_key("page", "client")
    service = serve(
        security=SecuritySettings(keys=(line.line(),), cors_origins=("https://app.example",))
    )
    with service.client() as page:
        allowed = page.options(PREDICT, headers=ask)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        other = page.options(PREDICT, headers={**ask, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        for headers, status in (({"x-api-key": key}, 200), ({}, 401)):
            answer = page.post(
                PREDICT, json={"instances": [house]}, headers={"origin": ask["origin"], **headers}
            )
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ask["origin"]
            assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_a_client_that_goes_leaves_no_trace_in_the_errors(running, caplog):
    for path in (PREDICT, "/api/v1/explain", "/api/v1/score"):
        kind = "text/csv" if path.endswith("score") else "application/json"
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            sent = request(b"{", path=path, Content_Type=kind)
            connection.sendall(sent.replace(b"gth: 1", b"gth: 100"))
    with running.client() as client:
        end = time.monotonic() + 10
        while client.get("/metrics").text.count('status="499"') < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_more_requests_than_the_service_takes_get_503_and_probes_still_pass(serve, house):
    service = serve(limits=LimitSettings(in_flight=4))
    held = []
    try:
        for _ in range(4):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=5)
            connection.sendall(request(b"{", close=False).replace(b"gth: 1", b"gth: 100"))
            held.append(connection)
        with service.client() as client:
            end = time.monotonic() + 5
            while (answer := client.post(PREDICT, json={"instances": [house]})).status_code == 200:
                assert time.monotonic() < end
            refused(answer, 503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            for probe in ("/health/live", "/health/ready", "/ping", "/v2/health/ready"):
                assert client.get(probe).status_code == 200
            for connection in held:
                connection.close()
            while client.post(PREDICT, json={"instances": [house]}).status_code != 200:
                assert time.monotonic() < end + 5
    finally:
        for connection in held:
            connection.close()


def test_work_that_takes_too_long_is_answered_503(serve, house):
    service = serve(limits=LimitSettings(request_s=0.3))
    predictor = service.service.predictor()
    release = threading.Event()
    slow = predictor.predict
    predictor.predict = lambda X, _: (release.wait(5), slow(X))[1] if len(X) > 64 else slow(X)
    try:
        with service.client(timeout=10) as client:
            answer = client.post(PREDICT, json={"instances": [house] * 65})
            refused(answer, 503, "timeout")
            assert answer.headers["retry-after"] == "1"
            assert client.post(PREDICT, json={"instances": [house]}).status_code == 200
    finally:
        release.set()


@pytest.mark.parametrize("path", [PREDICT, "/api/v1/explain"])
def test_a_fault_of_ours_is_500_without_its_reason(serve, house, caplog, path):
    service = serve()
    service.service.predictor().predict = lambda X, coverage: 1 / 0
    with service.client() as client:
        answer = client.post(path, json={"instances": [house]})
        found = refused(answer, 500, "internal_error")
        assert "division" not in answer.text
    end = time.monotonic() + 5
    while "ZeroDivisionError" not in caplog.text and time.monotonic() < end:
        time.sleep(0.01)
    assert found["request_id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "Exception in ASGI application" not in caplog.text


def test_a_thousand_connections_are_answered_or_get_retry_after(serve, house):
    service = serve(limits=LimitSettings(in_flight=64))
    body = request(orjson.dumps({"instances": [house]}))
    connections = [
        socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(1000)
    ]
    try:
        for connection in connections:
            connection.sendall(body)
        heads = [drained(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    statuses = [head[9:12] for head in heads]
    assert set(statuses) <= {b"200", b"503"}
    assert statuses.count(b"200") >= 64
    for head in heads:
        assert head.startswith(b"HTTP/1.1 200") or b"retry-after: 1" in head
    with service.client() as client:
        assert client.post(PREDICT, json={"instances": [house]}).status_code == 200


def test_logs_hold_no_secrets(serve, house):
    right, line = new_key("app", "client")
    wrong, _ = new_key("app", "client")
    lines = []

    class Collect(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler = Collect()
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("tasador", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel("DEBUG")
    try:
        service = serve(security=SecuritySettings(keys=(line.line(),)), access_log=True)
        service.service.predictor().predict = lambda X, coverage: (_ for _ in ()).throw(
            RuntimeError(f"postgresql://app:hunter2@db/x said no to {right}")
        )
        with service.client() as client:
            for key in (right, wrong):
                for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                    client.post(PREDICT, json={"instances": [house]}, headers=headers)
                    client.get(f"/api/v1/model/info?key={key}", headers=headers)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    text = "\n".join(lines)
    assert '"client": "app"' in text
    assert "RuntimeError: postgresql://app:***@db/x" in text
    for secret in (right, wrong, "hunter2", line.digest):
        assert secret not in text
    assert all(set(json.loads(entry)) >= {"time", "level", "message"} for entry in lines)
    assert any("ms" in json.loads(entry) for entry in lines)


def test_the_answer_of_a_plain_server_is_the_same_over_both_protocols(guarded, running, house):
    bodies = [
        httpx.post(service.url + PREDICT, json={"instances": [house]}).json()["predictions"][0]
        for service in (guarded, running)
    ]
    assert bodies[0]["prediction"] == bodies[1]["prediction"]
