"""TensorRT-RTX, where its builder is installed."""

from __future__ import annotations

import os

import pytest

from poster_edge.export.tensorrt_api import RTX, TensorRt, installed, load


@pytest.fixture(scope="session")
def rtx() -> TensorRt:
    """NVIDIA's own builder; no GPU is needed to build."""
    if not installed(RTX):
        if os.environ.get("POSTER_EDGE_REQUIRE_RTX"):
            pytest.fail("POSTER_EDGE_REQUIRE_RTX is set, but TensorRT-RTX's builder is not installed")
        pytest.skip("needs TensorRT-RTX's builder: make rtx")
    return load(RTX)
