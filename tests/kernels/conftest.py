"""Compiled kernels are kept beside the checkout's other build results, by the hash of their source."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kernel_cache() -> Path:
    """A cache folder that outlives the run."""
    return Path(__file__).parents[2] / "build" / "kernels"
