"""Whatever the OpenAPI document allows, and much that it does not: never a fault of ours.

`pytest tests/fuzz --examples 200` asks each route so often; without that it is a few seconds.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.errors import SchemathesisError
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from fixtures.fuzzing import long_seconds
from fixtures.service import running_service
from tasador.serving.api.models import AdminActions, admin_router
from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings

pytestmark = pytest.mark.no_cover

KEY, LINE = new_key("fuzzer", "admin")
#: With a key, with none, and with one that nobody has.
HEADERS: dict[str, dict[str, str]] = {
    "key": {"x-api-key": KEY},
    "no key": {},
    "wrong key": {"x-api-key": "tsd_wrong"},
}
#: Examples for each route and mode in the ordinary suite and in the slow one.
QUICK, SLOW = 4, 200
#: A request that is right by the document may still lack what the model needs: a file without rows,
#: a coverage that its intervals do not reach. One that is wrong in one outcome of several is
#: answered outcome by outcome.
BY_DESIGN = [positive_data_acceptance, negative_data_rejection]
SHARE = 0.25
load_all_checks()


@pytest.fixture(scope="module")
def fuzzed(house_bundle, tmp_path_factory) -> Iterator[str]:
    actions = AdminActions(lambda: "v", lambda: False, lambda: {"current": "v"})
    with running_service(
        tmp_path_factory.mktemp("fuzzed"),
        house_bundle,
        security=SecuritySettings(
            keys=(LINE.line(),), metrics_public=False, failures_per_minute=1_000_000
        ),
        routers=lambda _: [admin_router(actions)],
        mode="async",
    ) as found:
        yield found.url


# Threads of this process draw from the global generator, such as the jitter of retries, while
# Hypothesis checks that its strategies do not.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("examples", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("who", list(HEADERS))
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_brings_a_fault_of_ours(fuzzed, mode, who, examples, request):
    document = schemathesis.openapi.from_url(f"{fuzzed}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 20
    asked = request.config.getoption("--examples", default=None) or examples
    asked = asked if who == "key" else max(1, asked // 4)  # refused before a route is reached
    seconds = long_seconds(request.config, SHARE / 6)
    statuses: Counter[int] = Counter()
    limit = [math.inf]
    for operation in operations:
        if seconds is not None:
            limit[0] = time.monotonic() + seconds / len(operations)
        try:
            cases = operation.as_strategy(generation_mode=mode)

            @given(case=cases)
            @settings(
                max_examples=asked,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case):
                if time.monotonic() > limit[0]:  # the time of a long run is over
                    return
                answer = case.call(headers=HEADERS[who])
                statuses[answer.status_code] += 1
                case.validate_response(answer, headers=HEADERS[who], excluded_checks=BY_DESIGN)

            ask()
        except (Unsatisfiable, SchemathesisError):
            # nothing can be wrong about a request without body and parameters
            assert mode is GenerationMode.NEGATIVE
    print(f"{who}, {mode.value}: {dict(sorted(statuses.items()))}")
    assert set(statuses) & ({200, 400, 404, 422} if who == "key" else {401})
