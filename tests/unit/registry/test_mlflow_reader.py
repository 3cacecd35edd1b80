"""The small client against a real MLflow server; MLflow's own client is the reference."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
)
from tasador.registry.mlflow_reader import EmbeddedRegistry, MlflowServer, registry_reader
from tasador.registry.model_bundle import load_bundle
from tasador.registry.versions import OfferedVersion, fetch_offered

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds)


def test_both_readers_answer_as_mlflow_s_own_client_does(registry_server, real_bundle, tmp_path):
    registry_server.register(real_bundle, "agreeing", origin="real", note="a & b")
    client = registry_server.client()
    wanted = client.get_model_version_by_alias("agreeing", "staging")
    where = client.get_model_version_download_uri("agreeing", wanted.version)
    for uri in (registry_server.uri, registry_server.database):
        reader = registry_reader(uri)
        offered = reader.resolve("agreeing", "staging", soon(60))
        assert offered == reader.version("agreeing", "1", soon())
        assert (offered.name, offered.version) == (wanted.name, str(wanted.version))
        assert (offered.run_id, offered.tags) == (wanted.run_id, wanted.tags)
        assert reader.locate(offered, soon()) == where
    served = registry_reader(registry_server.uri)
    folder = fetch_offered(served, offered, tmp_path / "got", deadline=soon())
    assert load_bundle(folder).version == load_bundle(real_bundle).version


def test_what_is_not_there_is_nothing_offered(registry_server, real_bundle):
    registry_server.register(real_bundle, "deleted")
    for uri in (registry_server.uri, registry_server.database):
        reader = registry_reader(uri)
        for model, alias in (("absent", "staging"), ("deleted", "absent")):
            with pytest.raises(NothingOfferedError, match="no"):
                reader.resolve(model, alias, soon(60))
        with pytest.raises(NothingOfferedError, match="no"):
            reader.version("deleted", "7", soon(60))
        with pytest.raises(NothingOfferedError, match="no"):
            reader.locate(OfferedVersion("absent", "1", "r"), soon(60))


@pytest.mark.no_cover
def test_an_embedded_registry_s_bundle_is_fetched_without_mlflow(real_bundle, tmp_path):
    from tasador.registry.mlflow.registration import MlflowRun
    from tasador.registry.mlflow.registry import register_bundle

    run = MlflowRun(
        run_id="r", started="2026-01-01T00:00:00Z", seconds=1.0, dataset="houses", title="Houses",
        origin="real", source="x", data_hash="d", content_hash="c", code_commit="a",
    )  # fmt: skip
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    version = register_bundle(
        real_bundle, tracking_uri=uri, experiment="e", model_name="houses", run=run
    )
    reader = registry_reader(uri)
    offered = reader.resolve("houses", "staging", soon())
    assert (offered.version, offered.run_id) == (version.version, version.run_id)
    folder = fetch_offered(reader, offered, tmp_path / "got", deadline=soon())
    assert load_bundle(folder).version == load_bundle(real_bundle).version


class Canned(http.server.BaseHTTPRequestHandler):
    """Answers as the test says: status, headers, body, and a way to send it."""

    answer: ClassVar[tuple[int, dict[str, str], bytes]] = (200, {}, b"{}")
    seen: ClassVar[list[tuple[str, str | None]]] = []
    pause_s: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not self.pause_s:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(self.pause_s)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def canned():
    """A server of canned answers: (its address, the class that holds them)."""
    handler = type("Handler", (Canned,), {"seen": [], "pause_s": 0.0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def ask(uri: str, seconds: float = 10.0, **values):
    return MlflowServer(uri, **{"environment": {}, **values}).resolve("m", "a", soon(seconds))


ABSENT = b'{"error_code": "%s", "message": "no such alias"}'
VERSION = b'{"model_version": {"name": "m", "version": "3", "run_id": "r"}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, ABSENT % b"RESOURCE_DOES_NOT_EXIST", NothingOfferedError, "no such alias"),
        (400, ABSENT % b"INVALID_PARAMETER_VALUE", NothingOfferedError, "no such alias"),
        (401, b"who are you", RegistryRejectedError, "credentials"),
        (403, b"Invalid Host header", RegistryRejectedError, "allowed-hosts"),
        (302, b"", RegistryRejectedError, "refused"),
        (500, b"oops", RegistryError, "in trouble: got 500"),
        (503, b"", RegistryError, "in trouble: got 503"),
        (429, b"", RegistryError, "in trouble"),
        (200, b"<html>", RegistryRejectedError, "does not answer as MLflow does"),
        (200, b"[]", RegistryRejectedError, "does not answer as MLflow does"),
        (200, b'{"model_version": 7}', RegistryRejectedError, "does not answer as MLflow does"),
        (200, b"{}", RegistryRejectedError, "no 'model_version'"),
    ],
)  # fmt: skip
def test_every_answer_of_a_server_has_its_error(canned, status, body, kind, said):
    uri, handler = canned
    handler.answer = (status, {}, body)
    with pytest.raises(kind, match=said) as caught:
        ask(uri)
    # callers tell errors apart by the classes of core.errors
    assert (
        next(c for c in type(caught.value).__mro__ if c.__module__ == "tasador.core.errors") is kind
    )


def test_a_redirection_is_named_and_not_followed(canned):
    uri, handler = canned
    handler.answer = (301, {"Location": "https://elsewhere/api"}, b"")
    with pytest.raises(RegistryRejectedError, match=r"301 .*https://elsewhere/api"):
        ask(uri.replace("://", "://me:secret@"))
    assert len(handler.seen) == 1


def test_credentials_are_sent_and_never_shown(canned):
    uri, handler = canned
    handler.answer = (200, {}, VERSION)
    assert ask(uri.replace("://", "://me:s%40cret@")).version == "3"
    ask(uri, environment={"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "s@cret"})
    ask(uri, environment={"MLFLOW_TRACKING_TOKEN": "tok"})
    ask(uri)
    basic = "Basic bWU6c0BjcmV0"
    assert [sent for _, sent in handler.seen] == [basic, basic, "Bearer tok", None]
    handler.answer = (500, {}, b"")
    with pytest.raises(RegistryError, match="trouble") as caught:
        ask(uri.replace("://", "://me:s%40cret@"))
    assert "cret" not in str(caught.value)


def test_credentials_go_to_no_other_host(canned):
    uri, handler = canned
    handler.answer = (200, {}, b"content")
    other = MlflowServer("http://me:secret@127.0.0.1:9", environment={})
    assert other.read_artifact(f"{uri}/x", 100, soon()) == b"content"
    assert handler.seen == [("/x", None)]


def test_a_server_behind_a_path_is_asked_there(canned):
    uri, handler = canned
    handler.answer = (200, {}, b'{"artifact_uri": "mlflow-artifacts:/1/r/artifacts/a b"}')
    reader = MlflowServer(f"{uri}/behind/", environment={})
    offered = OfferedVersion("a name", "3", "r")
    address = reader.locate(offered, soon())
    assert handler.seen[0][0] == (
        "/behind/api/2.0/mlflow/model-versions/get-download-uri?name=a+name&version=3"
    )
    reader.read_artifact(address, 1000, soon())
    assert handler.seen[1][0] == "/behind/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a%20b"


def test_an_answer_that_comes_byte_by_byte_is_given_up_at_the_deadline(canned):
    uri, handler = canned
    handler.answer, handler.pause_s = (200, {}, VERSION), 0.05
    with pytest.raises(DeadlineError, match="took too long"):
        ask(uri, seconds=0.5)


def test_a_server_that_accepts_and_is_silent_is_given_up_after_the_read_timeout(canned):
    uri, handler = canned
    handler.answer, handler.pause_s = (200, {"Content-Length": "9"}, b"{"), 1.0
    with pytest.raises(RegistryError, match=r"cannot be reached.*timed out"):
        ask(uri, read_s=0.2)


def test_a_body_that_stops_half_way_is_an_outage_and_not_a_damaged_bundle(canned):
    uri, handler = canned
    handler.answer = (200, {"Content-Length": "100"}, VERSION)
    with pytest.raises(RegistryError, match=r"stopped half way|cannot be reached"):
        ask(uri)


def test_a_file_longer_than_it_may_be_is_refused(canned):
    uri, handler = canned
    handler.answer = (200, {}, b"x" * 200_000)
    with pytest.raises(BundleError, match=r"too large.*at most 1000 bytes"):
        MlflowServer(uri, environment={}).read_artifact(f"{uri}/x", 1000, soon())


def test_nobody_listening_is_an_outage():
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9 cannot be reached.*refused"):
        ask("http://127.0.0.1:9")


def test_a_bundle_of_a_version_that_holds_none_is_a_bundle_error(canned, tmp_path):
    uri, _ = canned

    class Empty(MlflowServer):
        def locate(self, *_):
            return (tmp_path / "nothing").as_uri()

    with pytest.raises(BundleError, match="holds no complete bundle"):
        fetch_offered(Empty(uri), OfferedVersion("m", "3", "r"), tmp_path / "got", deadline=soon())
    assert not (tmp_path / "got").exists()


def test_addresses_that_a_service_cannot_read_are_refused():
    for uri in ("postgresql://u:secret@db/mlflow", "databricks", "./mlruns"):
        with pytest.raises(ConfigError, match="start `mlflow server`") as caught:
            registry_reader(uri)
        assert "secret" not in str(caught.value)
    with pytest.raises(RegistryRejectedError, match="dbfs: cannot be read"):
        MlflowServer("http://127.0.0.1:9").read_artifact("dbfs:/x", 10, soon())


def test_an_embedded_registry_that_is_absent_empty_or_something_else_says_so(tmp_path):
    for content, kind in (
        (None, NothingOfferedError),
        (b"", RegistryRejectedError),
        (b"x" * 99, RegistryRejectedError),
    ):
        file = tmp_path / "mlflow.db"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(kind, match=r"mlflow\.db"):
            EmbeddedRegistry(file).resolve("m", "a", soon())
    assert file.read_bytes() == b"x" * 99


def test_reading_a_registry_imports_neither_mlflow_nor_pandas():
    code = (
        "import sys; from tasador.registry import mlflow_reader, bundle_stores;"
        "assert not {'mlflow', 'pandas', 'sklearn', 'requests', 'fsspec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key with a certificate that only those who are told about it trust."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_a_server_over_tls_is_read_when_its_certificate_is_trusted(certificate):
    handler = type("Handler", (Canned,), {"seen": [], "answer": (200, {}, VERSION)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    uri = f"https://127.0.0.1:{server.server_address[1]}"
    try:
        trusting = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate)}
        assert ask(uri, environment=trusting).version == "3"
        with pytest.raises(RegistryError, match="certificate verify failed"):
            ask(uri)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_certificate_that_cannot_be_read_is_an_outage_and_not_a_crash(tmp_path):
    missing = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(tmp_path / "absent.pem")}
    with pytest.raises(RegistryError, match="cannot be reached"):
        ask("https://127.0.0.1:9", environment=missing)
