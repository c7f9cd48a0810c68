"""From crop to input: colours, normalisation, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from poster_edge.config import Preprocess
from poster_edge.data.preprocess import resize_square, to_input
from poster_edge.errors import InputError

BLUE = np.zeros((10, 10, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


def settings(**changes: object) -> Preprocess:
    plain: dict[str, object] = {"size": 10, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Preprocess(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("colour", "expected"),
    [("bgr", [1, 0, 0]), ("rgb", [0, 0, 1]), ("gray", [29 / 255] * 3)],
)
def test_colour_orders(colour: str, expected: list[float]) -> None:
    batch = to_input([BLUE], settings(colour=colour))
    assert batch.shape == (1, 3, 10, 10)
    assert np.allclose(batch[0, :, 5, 5], expected, atol=1e-6)


def test_normalisation_is_per_channel() -> None:
    batch = to_input([np.full((10, 10), 255, np.uint8)], settings(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0)))
    assert np.allclose(batch[0, :, 0, 0], [1.0, 1.0, 0.0])


def test_mixed_sizes_make_one_batch() -> None:
    crops = [np.full((s, s, 3), s, np.uint8) for s in (1, 7, 10, 48, 200)]
    batch = to_input(crops, settings())
    assert batch.flags.c_contiguous
    assert np.allclose(batch.mean(axis=(1, 2, 3)) * 255, [1, 7, 10, 48, 200], atol=1e-3)


def test_no_crops_make_an_empty_batch() -> None:
    assert to_input([], settings()).shape == (0, 3, 10, 10)


def test_large_crops_do_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (400, 200))
    small = resize_square(stripes, 20, "linear")
    assert small.std() < 10


@pytest.mark.parametrize(
    "changes",
    [{"colour": "hsv"}, {"size": 4}, {"std": (1.0, 0.0, 1.0)}, {"interpolation": "cubic"}, {"margin": 9.0}],
    ids=str,
)
def test_impossible_settings(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        settings(**changes)


def test_round_trip_and_unknown_entries() -> None:
    one = settings(margin=0.3, shift_y=0.05)
    assert Preprocess.from_dict(one.to_dict()) == one
    with pytest.raises(InputError, match="extra"):
        Preprocess.from_dict({**one.to_dict(), "extra": 1})
