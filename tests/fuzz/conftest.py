import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes", type=float, default=None,
        help="how long to feed forged state to the kernels (only when tests/fuzz is named)",
    )  # fmt: skip
