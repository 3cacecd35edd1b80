"""Hosts, API keys, rate limits, and the buckets that workers share."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fixtures.command_line import run_here
from tasador.core.errors import ConfigError
from tasador.serving.errors import Problem
from tasador.serving.http import auth
from tasador.serving.http.auth import KeyAuthorizer, RateLimit, SharedBuckets, new_key, parse_key
from tasador.settings.serving import LimitSettings, SecuritySettings

KEY, CONFIGURED = new_key("app", "client")
ADMIN, CONFIGURED_ADMIN = new_key("root", "admin")
PREDICT = "/api/v1/predict"


def admit(security, headers=None, path=PREDICT, peer="10.0.0.1", limits=None):
    sent = {name.encode(): value.encode() for name, value in (headers or {}).items()}
    found = security if isinstance(security, KeyAuthorizer) else made(security, limits)
    return found.admit(sent, path, peer)


def made(security, limits=None):
    return KeyAuthorizer(security, limits or LimitSettings())


LOCKED = SecuritySettings(keys=(CONFIGURED.line(), CONFIGURED_ADMIN.line()))


def test_without_keys_everybody_may_value_rows():
    assert admit(SecuritySettings()) == ("10.0.0.1", "anonymous")


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}],
)
def test_a_key_is_known_by_its_name(headers):
    assert admit(LOCKED, headers) == ("app", "client")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": KEY + " "},
        {"x-api-key": CONFIGURED.digest},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": "x" * 60_000},
    ],
)
def test_anything_else_is_401(headers):
    with pytest.raises(Problem, match="key") as caught:
        admit(LOCKED, headers)
    assert caught.value.status == 401


def test_only_the_public_paths_are_read_without_a_key():
    for path in ("/", "/docs", "/docs/start.js", "/openapi.json", "/version", "/v2", "/metrics"):
        assert admit(LOCKED, path=path)[1] == "anonymous"
    for path in (PREDICT, "/v2/models/x", "/invocations", "/api/v1/model/info", "/docsx", "//"):
        with pytest.raises(Problem, match="no API key"):
            admit(LOCKED, path=path)
    private = SecuritySettings(keys=LOCKED.keys, metrics_public=False)
    with pytest.raises(Problem, match="no API key"):
        admit(private, path="/metrics")


def test_two_keys_of_one_name_are_valid_while_a_client_changes_over():
    text, second = new_key("app", "client")
    both = SecuritySettings(keys=(CONFIGURED.line(), second.line()))
    assert admit(both, {"x-api-key": KEY}) == admit(both, {"x-api-key": text}) == ("app", "client")


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ("example.org", True),
        ("EXAMPLE.org:8443", True),
        ("example.org.", True),
        ("a.b.example.net", True),
        ("example.net", False),
        ("evilexample.net", False),
        ("example.org.evil.com", False),
        ("evil.com#example.org", False),
        ("example.org:80:evil", False),
        ("example.org:evil", False),
        ("example.org@evil.com", False),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("[::2]:8000", False),
        ("10.0.0.7:80", True),
        ("*", False),
        ("*.example.net", True),
        ("", False),
    ],
)
def test_a_host_is_compared_whole_and_without_its_port(sent, right):
    hosts = SecuritySettings(allowed_hosts=("example.org", "*.Example.net", "::1", "10.0.0.7"))
    if right:
        assert admit(hosts, {"host": sent})
    else:
        with pytest.raises(Problem, match="not called by this name"):
            admit(hosts, {"host": sent})


def test_probes_are_exempt_from_the_host_check_and_a_star_accepts_any():
    hosts = SecuritySettings(allowed_hosts=("example.org",))
    assert admit(hosts, {"host": "10.1.2.3"}, path="/health/ready")
    assert admit(SecuritySettings(allowed_hosts=("*",)), {"host": "anything"})


def test_too_many_wrong_keys_of_a_peer_have_to_wait_while_right_ones_pass():
    found = made(SecuritySettings(keys=LOCKED.keys, failures_per_minute=3))
    statuses = []
    for _ in range(5):
        with pytest.raises(Problem, match=r"key|fast") as caught:
            admit(found, {"x-api-key": "wrong"})
        statuses.append(caught.value.status)
    assert statuses == [401, 401, 401, 429, 429]
    assert 1 <= caught.value.retry_after <= 20
    assert admit(found, {"x-api-key": KEY}) == ("app", "client")
    with pytest.raises(Problem, match="not known"):
        admit(found, {"x-api-key": "wrong"}, peer="10.0.0.2")


def test_one_customers_ipv6_addresses_are_one_peer():
    found = made(SecuritySettings(keys=LOCKED.keys, failures_per_minute=1))
    for peer, status in (("2001:db8::1", 401), ("2001:db8::2", 429), ("2001:db8:1::1", 401)):
        with pytest.raises(Problem, match=r"key|fast") as caught:
            admit(found, {"x-api-key": "wrong"}, peer=peer)
        assert caught.value.status == status
    with pytest.raises(Problem, match="not known"):
        admit(found, {"x-api-key": "wrong"}, peer="fe80::1%eth0")


def test_a_rate_holds_for_each_key_and_for_each_address_without_one():
    limits = LimitSettings(rate_per_s=0.001, burst=2)
    found = made(LOCKED, limits)
    for _ in range(2):
        admit(found, {"x-api-key": KEY})
    with pytest.raises(Problem, match="too fast") as caught:
        admit(found, {"x-api-key": KEY}, peer="10.0.0.9")
    assert (caught.value.status, caught.value.retry_after) == (429, 1000)
    assert admit(found, {"x-api-key": ADMIN})
    assert admit(found, path="/docs", peer="10.0.0.1")


def test_a_bucket_fills_with_time_and_never_above_its_burst():
    now = [0.0]
    rate = RateLimit(2.0, 3, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] += 0.5
    assert rate.take("a") == 0
    now[0] += 1000
    assert [rate.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_buckets_of_clients_long_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr(auth, "_MOST_CLIENTS", 10)
    rate = RateLimit(1.0, 1)
    for client in range(100):
        rate.take(str(client))
    assert len(rate._buckets) == 10


def test_a_changed_keys_file_counts_within_seconds_and_a_broken_one_not_at_all(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(auth, "_RELOAD_S", 0.0)
    file = tmp_path / "keys.txt"
    file.write_text(f"# keys\n\n{CONFIGURED.line()}\n")
    found = made(SecuritySettings(keys_file=str(file)))
    assert admit(found, {"x-api-key": KEY})
    text, second = new_key("other", "client")
    file.write_text(second.line())
    assert admit(found, {"x-api-key": text}) == ("other", "client")
    with pytest.raises(Problem, match="not known"):
        admit(found, {"x-api-key": KEY})
    file.write_text(f"{text}\n")  # a key pasted instead of its hash
    assert admit(found, {"x-api-key": text}) == ("other", "client")
    assert "was not read again" in caplog.text
    assert text not in caplog.text
    file.unlink()
    assert admit(found, {"x-api-key": text})


def test_an_empty_keys_file_admits_nobody(tmp_path):
    file = tmp_path / "keys.txt"
    file.touch()
    with pytest.raises(Problem, match="not known"):
        admit(SecuritySettings(keys_file=str(file)), {"x-api-key": KEY})
    with pytest.raises(ConfigError, match="cannot be read"):
        made(SecuritySettings(keys_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "line", ["app", f"app:root:{'0' * 64}", "app:client:00", f"a b:client:{'0' * 64}"]
)
def test_a_line_that_is_no_key_is_refused_without_being_shown(line):
    with pytest.raises(ConfigError, match="a line of") as caught:
        parse_key(line)
    assert line not in str(caught.value)


def test_keys_are_made_listed_rotated_and_revoked_by_the_command(tmp_path, monkeypatch):
    def tasador(*words):
        code, out, err = run_here(tmp_path, *words)
        assert code == 0, err
        return out

    file = tmp_path / "secrets" / "keys.txt"
    first = tasador("keys", "new", "app", "--file", str(file)).strip()
    second = tasador("keys", "new", "app", "--role", "admin", "--file", str(file)).strip()
    assert first.startswith("tsd_")
    assert first != second
    text = file.read_text()
    assert first not in text
    assert second not in text
    assert file.stat().st_mode & 0o077 == 0
    service = SecuritySettings(keys_file=str(file))
    assert admit(service, {"x-api-key": first}) == ("app", "client")
    assert admit(service, {"x-api-key": second}) == ("app", "admin")
    with monkeypatch.context() as patch:
        patch.setenv("TASADOR_SECURITY__KEYS_FILE", str(file))
        assert tasador("keys", "list").count("app") == 2
    revoked = tasador("keys", "revoke", "app", "--keep-newest", "--file", str(file))
    assert "removed 1 key of app" in revoked
    with pytest.raises(Problem, match="not known"):
        admit(service, {"x-api-key": first})
    assert admit(service, {"x-api-key": second})


def test_the_command_says_what_is_wrong(tmp_path):
    from tasador.serving.http.auth import add_key, read_keys, revoke_keys

    for arguments, message in (
        (("list",), "no keys' file"),
        (("new", "app", "--role", "root"), "no such role"),
    ):
        code, _, err = run_here(tmp_path, "keys", *arguments)
        assert code == 2
        assert message in err
    assert read_keys(tmp_path / "none") == []
    with pytest.raises(ConfigError, match="no key is called"):
        revoke_keys(tmp_path / "none", "app")
    add_key(tmp_path / "keys", CONFIGURED)
    assert revoke_keys(tmp_path / "keys", "app") == 1
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path)


def test_a_key_without_a_file_is_printed_with_the_line_to_configure():
    command = [sys.executable, "-m", "tasador.cli.app", "keys", "new", "app"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text, line = done.stdout.split()
    assert admit(SecuritySettings(keys=(line,)), {"x-api-key": text}) == ("app", "client")


def test_processes_share_a_clients_bucket_and_not_another_ones(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from tasador.serving.http.auth import SharedBuckets;"
        "found = SharedBuckets(Path(sys.argv[1]));"
        "print(sum(found.take(sys.argv[2], 100.0, 1.0, 50) >= 1.0 for _ in range(40)))"
    )
    path = str(tmp_path / "rates")
    run = [[sys.executable, "-c", code, path, name] for name in ("a", "a", "b")]
    started = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in run]
    allowed = [int(one.communicate(timeout=60)[0]) for one in started]
    assert allowed[0] + allowed[1] == 50
    assert allowed[2] == 40


def test_a_shared_bucket_gives_what_one_of_a_single_process_gives(tmp_path) -> None:
    now = 1000.0
    alone = RateLimit(2.0, 3, clock=lambda: now)
    shared = RateLimit(2.0, 3, clock=lambda: now, shared=SharedBuckets(tmp_path / "rates"))
    for pause in (0.0, 0.0, 0.0, 0.0, 0.1, 0.4, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0):
        now += pause
        assert shared.take("a") == pytest.approx(alone.take("a"))


def test_more_clients_than_places_are_each_let_in_and_the_file_does_not_grow(tmp_path) -> None:
    buckets = SharedBuckets(tmp_path / "rates")
    size = (tmp_path / "rates").stat().st_size
    assert all(buckets.take(f"client {i}", float(i), 0.001, 5) >= 1.0 for i in range(40_000))
    assert (tmp_path / "rates").stat().st_size == size


def test_wrong_keys_are_counted_over_workers(tmp_path) -> None:
    settings = SecuritySettings(keys=(f"app:client:{'0' * 64}",), failures_per_minute=4)
    workers = [KeyAuthorizer(settings, LimitSettings(), tmp_path) for _ in range(2)]
    statuses = []
    for i in range(8):
        with pytest.raises(Problem, match="key") as refused:
            workers[i % 2].admit({b"x-api-key": b"wrong"}, "/api/v1/predict", "10.0.0.1")
        statuses.append(refused.value.status)
    assert statuses == [401] * 4 + [429] * 4
