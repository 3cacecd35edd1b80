"""The net: what tasador says today, stored, and compared to the last bit.

It goes through doors that stay when modules move: commands as processes, the HTTP API, the public
names of `tasador`, and files.
"""

from __future__ import annotations

import pytest

from fixtures.net import References


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true",
        help="store what is found as the references (only when tests/net is named)",
    )  # fmt: skip


@pytest.fixture(scope="session")
def references(pytestconfig: pytest.Config) -> References:
    return References(pytestconfig.getoption("--rewrite", default=False))
