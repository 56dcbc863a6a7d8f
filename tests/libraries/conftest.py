from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed() -> Iterator[None]:
    """Random weights, and what follows from them, are the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
