import pytest

from tasador.core.errors import ConfigError
from tasador.serving.api.models import AdminActions, admin_router
from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings

ADMIN, ADMIN_KEY = new_key("root", "admin")
CLIENT, CLIENT_KEY = new_key("app", "client")
KEYS = (ADMIN_KEY.line(), CLIENT_KEY.line())


class Actions:
    """Rolls back between two versions."""

    def __init__(self):
        self.versions = ["new", "old"]
        self.looked = 0

    def rollback(self):
        if len(self.versions) < 2:
            raise ConfigError("there is no previous model", remedy="load one")
        return self.versions.pop(0) and self.versions[0]

    def reload(self):
        self.looked += 1
        return self.looked == 1

    def state(self):
        return {"current": self.versions[0]}


@pytest.fixture
def actions():
    return Actions()


@pytest.fixture
def served(serve, actions):
    made = AdminActions(actions.rollback, actions.reload, actions.state)
    return serve(security=SecuritySettings(keys=KEYS), routers=lambda _: [admin_router(made)])


def test_an_administrator_rolls_back_once_and_gets_409_when_there_is_nothing_left(served):
    with served.client(headers={"x-api-key": ADMIN}) as client:
        assert client.get("/api/v1/admin/state").json() == {"current": "new"}
        assert client.post("/api/v1/admin/rollback").json() == {"model_version": "old"}
        assert client.get("/api/v1/admin/state").json() == {"current": "old"}
        again = client.post("/api/v1/admin/rollback")
        assert again.status_code == 409
        assert again.json()["error"] == "nothing_to_roll_back_to"
        assert "load one" in again.json()["remedy"]


def test_an_administrator_has_the_sources_looked_at(served):
    with served.client(headers={"authorization": f"Bearer {ADMIN}"}) as client:
        assert client.post("/api/v1/admin/reload").json() == {
            "swapped": True,
            "state": {"current": "new"},
        }
        assert client.post("/api/v1/admin/reload").json()["swapped"] is False


ROUTES = [("GET", "state"), ("POST", "rollback"), ("POST", "reload")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_else_may_do_so(served, actions, method, path):
    for headers, status in (
        ({}, 401),
        ({"x-api-key": "tsd_wrong"}, 401),
        ({"x-api-key": CLIENT}, 403),
    ):
        with served.client(headers=headers) as client:
            answer = client.request(method, f"/api/v1/admin/{path}")
            assert answer.status_code == status
            assert {"type", "title", "status", "detail", "instance", "error"} <= set(answer.json())
    assert (actions.versions, actions.looked) == (["new", "old"], 0)


@pytest.mark.parametrize("security", [SecuritySettings(), SecuritySettings(keys=(KEYS[1],))])
def test_without_an_admin_key_the_admin_routes_are_shut(serve, actions, security):
    made = AdminActions(actions.rollback, actions.reload, actions.state)
    served = serve(security=security, routers=lambda _: [admin_router(made)])
    with served.client() as client:
        assert client.get("/api/v1/admin/state").status_code == 401
    with served.client(headers={"x-api-key": ADMIN}) as client:
        assert client.post("/api/v1/admin/rollback").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/admin/state/",
        "/api/v1//admin/state",
        "//api/v1/admin/state",
        "/api/v1/admin%2Fstate",
        "/api/v1/%61dmin/state",
        "/api/v1/./admin/state",
        "/api/v1/x/../admin/state",
        "/API/v1/admin/state",
        "/api/v1/admin/state;x=1",
        "/api/v1/admin/state%00",
        "/api/v1/admin",
        "/v2/../api/v1/admin/state",
        "/health/live/../../api/v1/admin/state",
    ],
)
def test_no_spelling_of_an_admin_path_lets_a_client_in(served, path):
    import http.client

    for key in (None, CLIENT):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
        connection.putrequest("GET", path, skip_host=False)
        if key:
            connection.putheader("x-api-key", key)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status in (400, 401, 403, 404), path
        assert b'"current"' not in answer.read()
        assert answer.getheader("location") is None
        connection.close()


def test_the_state_of_a_real_service_is_returned(house_bundle, written_bundle, tmp_path):
    import asyncio

    from tasador.serving.app import Assembly
    from tasador.settings.serving import read_settings

    settings = read_settings(
        {
            "TASADOR_SOURCE__LOCAL": str(written_bundle),
            "TASADOR_RECORDS__URL": f"sqlite:///{tmp_path}/r.db",
            "TASADOR_SOURCE__LAST_GOOD": str(tmp_path / "good"),
            "TASADOR_SECURITY__KEYS": ADMIN_KEY.line(),
        }
    )
    import httpx

    async def ask():
        assembly = Assembly(settings)
        app = assembly.app()
        assembly.refresher.refresh()
        assembly.slot.check(assembly.slot.current)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x", headers={"x-api-key": ADMIN}
        ) as client:
            state = (await client.get("/api/v1/admin/state")).json()
            rollback = await client.post("/api/v1/admin/rollback")
            reload = (await client.post("/api/v1/admin/reload")).json()
        assembly._stop()
        return state, rollback, reload

    state, rollback, reload = asyncio.run(ask())
    assert state["current"] == {"version": house_bundle.version, "source": "local"}
    assert state["previous"] is None
    assert state["refresh"]["polls"] == 1
    assert rollback.status_code == 409
    assert reload["swapped"] is False
