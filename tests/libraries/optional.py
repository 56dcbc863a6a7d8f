"""Libraries that the tests alone use; who has them not sees why tests are skipped."""

from typing import Any

import pytest

COMMAND = "uv run --group libraries pytest tests/libraries"


def library(name: str) -> Any:
    """The module, or the running test file is skipped."""
    return pytest.importorskip(name, reason=f"{name} is not installed: {COMMAND}")
