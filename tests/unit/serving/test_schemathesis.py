"""Whatever the OpenAPI document allows, and much that it does not: never a fault of ours."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.errors import SchemathesisError

from fixtures.service import running_service
from tasador.serving.api.models import AdminActions, admin_router
from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings

KEY, LINE = new_key("fuzzer", "admin")


@pytest.fixture(scope="module")
def fuzzed(house_bundle, tmp_path_factory) -> Iterator[str]:
    actions = AdminActions(lambda: "v", lambda: False, lambda: {"current": "v"})
    with running_service(
        tmp_path_factory.mktemp("fuzzed"),
        house_bundle,
        security=SecuritySettings(keys=(LINE.line(),)),
        routers=lambda _: [admin_router(actions)],
        mode="async",
    ) as found:
        yield found.url


# Threads of this process draw from the global generator, such as the jitter of retries, while
# Hypothesis checks that its strategies do not.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_brings_a_fault_of_ours(fuzzed, mode, examples):
    document = schemathesis.openapi.from_url(f"{fuzzed}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 20
    statuses = set()
    for operation in operations:
        try:
            cases = operation.as_strategy(generation_mode=mode)

            @given(case=cases)
            @settings(
                max_examples=examples,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case):
                answer = case.call(headers={"x-api-key": KEY})
                assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text}"
                statuses.add(answer.status_code)

            ask()
        except (Unsatisfiable, SchemathesisError):
            # nothing can be wrong about a request without body and parameters
            assert mode is GenerationMode.NEGATIVE
    assert statuses & {200, 400, 404, 422}
