"""Reading images: every variant that is fine, and every damage refused in one line."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from poster_edge.errors import InputError
from poster_edge.pipeline.headers import check_image, jpeg_end, sniff
from poster_edge.pipeline.images import as_bgr, decode_image, read_image


def encoded(suffix: str, picture: np.ndarray | None = None) -> bytes:
    if picture is None:
        picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return bytes(cv2.imencode(suffix, picture)[1])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")


BLOCK = np.kron(np.arange(4, dtype=np.uint16).reshape(2, 2) * 16000, np.ones((20, 30), np.uint16))


@pytest.mark.parametrize(
    ("suffix", "picture"),
    [
        (".jpg", BLOCK.astype(np.uint8)),
        (".png", (BLOCK >> 8).astype(np.uint8)),
        (".png", BLOCK),
        (".png", np.dstack([BLOCK] * 4)),
        (".png", np.dstack([BLOCK >> 8] * 4).astype(np.uint8)),
        (".webp", np.dstack([BLOCK >> 8] * 3).astype(np.uint8)),
        (".webp", np.dstack([BLOCK >> 8] * 4).astype(np.uint8)),
        (".bmp", np.dstack([BLOCK >> 8] * 3).astype(np.uint8)),
        (".bmp", (BLOCK >> 8).astype(np.uint8)),
    ],
    ids=["jpeg-gray", "png-gray", "png-16", "png-16-alpha", "png-alpha", "webp", "webp-alpha", "bmp", "bmp-gray"],
)
def test_all_kinds_become_8_bit_bgr(suffix: str, picture: np.ndarray) -> None:
    image = decode_image(encoded(suffix, picture), "x")
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    if picture.dtype == np.uint16:
        assert abs(int(image[30, 50, 0]) - 48000 // 257) <= 1


def test_exif_orientation_is_honoured() -> None:
    jpeg = encoded(".jpg", np.dstack([BLOCK.astype(np.uint8)] * 3))
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    exif = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert decode_image(turned, "x").shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "empty"),
        (lambda: b"hello, I am no picture", "no image"),
        (lambda: b"GIF89a" + bytes(50), "a GIF"),
        (lambda: b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC"),
        (lambda: encoded(".jpg")[:-200], "truncated"),
        (lambda: encoded(".jpg")[:30], "truncated"),
        (lambda: encoded(".jpg")[:2] + b"\xff\xd9", "no picture"),
        (lambda: encoded(".png")[:-500], "truncated"),
        (lambda: encoded(".png")[:20], "truncated"),
        (lambda: png(10, 10, struct.pack(">I4s", 0x7FFFFFFF, b"IDAT") + bytes(100)), "broken length"),
        (lambda: png(60000, 60000, png_chunk(b"IDAT", zlib.compress(bytes(1000)))), "60000x60000"),
        (lambda: png(0, 10, b""), "0x10"),
        (lambda: png(10, 10, png_chunk(b"IDAT", b"rubbish")), "cannot be decoded"),
        (lambda: encoded(".webp")[:-100], "truncated"),
        (lambda: encoded(".bmp")[:-100], "truncated"),
        (lambda: b"BM" + bytes(30), "BMP"),
    ],
    ids=[
        "empty", "text", "gif", "heic", "jpeg-cut", "jpeg-header-cut", "jpeg-hollow", "png-cut", "png-header-cut",
        "png-chunk-length", "png-bomb", "png-no-width", "png-rubbish", "webp-cut", "bmp-cut", "bmp-zeros",
    ],
)  # fmt: skip
def test_damage_is_one_line_and_cheap(make: Callable[[], bytes], message: str) -> None:
    data = make()
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as caught:
        decode_image(data, "photo.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith("photo.jpg: ")
    assert "\n" not in str(caught.value)
    assert peak < 8 << 20


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_mutated_images_never_raise_anything_else(suffix: str) -> None:
    random = np.random.default_rng(1)
    whole = np.frombuffer(encoded(suffix), np.uint8)
    for _ in range(150):
        data = whole[: random.integers(1, len(whole) + 1)].copy()
        data[random.integers(0, min(len(data), 200), 3)] = random.integers(0, 256, 3)
        with suppress(InputError):
            assert decode_image(data.tobytes(), "x").shape[2] == 3


def test_jpeg_end_passes_over_thumbnails_and_restart_markers() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    thumbnail = encoded(".jpg", picture[:16, :16])
    jpeg = bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1])
    assert jpeg.count(b"\xff\xd0") >= 1
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    filled = jpeg[:2] + segment + b"\xff\xff" + jpeg[2:]
    assert jpeg_end(filled + jpeg) == len(filled)
    assert jpeg_end(jpeg[:-1]) is None
    with pytest.raises(ValueError, match="truncated"):
        jpeg_end(jpeg[:-40] + jpeg)


def test_progressive_jpegs_have_several_scans() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    assert jpeg.count(b"\xff\xda") > 1
    assert jpeg_end(jpeg + b"trailing") == len(jpeg)
    check_image(jpeg + b"trailing", "x")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: No such file"):
        read_image(tmp_path / "none.jpg")


def test_sniff() -> None:
    assert [sniff(encoded(s)[:32]) for s in (".jpg", ".png", ".webp", ".bmp")] == ["jpeg", "png", "webp", "bmp"]
    assert sniff(b"") is None


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)], ids=str)
def test_as_bgr(shape: tuple[int, ...]) -> None:
    assert as_bgr(np.zeros(shape, np.uint8)).shape == (4, 5, 3)
