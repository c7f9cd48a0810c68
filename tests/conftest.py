"""Fixtures for all tests: the shared data beside the checkout, where there is any."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that is never committed; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


@pytest.fixture(scope="session")
def media(shared: Path) -> Path:
    """Photos and clips with faces; see the shared folder's own notes."""
    return shared / "media"
