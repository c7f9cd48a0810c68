"""Checks of image files' structure before any decoder sees them.

A few bytes can make a decoder allocate gigabytes (a huge PNG, a broken chunk length), and OpenCV
shows the upper half of a truncated JPEG without a word.  Reading the structure costs almost nothing
and says what is wrong.
"""

from __future__ import annotations

import re
import struct

from poster_edge.errors import InputError

#: Largest picture that is decoded: 300 MB as BGR.
MOST_PIXELS = 100_000_000
#: Largest picture before the decoder reduces it to 8 bits and three channels.
MOST_BYTES = 400_000_000

_PNG = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Start-of-frame markers: FFC0-FFCF without the tables C4, C8, CC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: In entropy-coded data FF is followed by 00 (stuffing), a restart marker or, at a marker, others.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FOREIGN = (
    (b"GIF8", 0, "a GIF"),
    (b"II*\0", 0, "a TIFF"),
    (b"MM\0*", 0, "a TIFF"),
    (b"ftyphei", 4, "a HEIC"),
    (b"ftypmif1", 4, "a HEIC"),
    (b"ftypavif", 4, "an AVIF"),
    (b"%PDF", 0, "a PDF"),
)


def sniff(head: bytes) -> str | None:
    """Name the image format by the first bytes: "jpeg", "png", "bmp", "webp" or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(_PNG):
        return "png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    return "bmp" if head.startswith(b"BM") and len(head) >= 26 else None


def check_image(data: bytes, name: str) -> None:
    """Refuse what is no whole image of a sensible size.

    Args:
        data: a file's bytes.
        name: put before the reason.

    Raises:
        InputError: empty, another format, truncated, or too large to decode.
    """
    if not data:
        raise InputError(f"{name}: the file is empty")
    checks = {"jpeg": _check_jpeg, "png": _check_png, "webp": _check_webp, "bmp": _check_bmp}
    kind = sniff(data[:32])
    if kind is None:
        foreign = next((what for magic, at, what in _FOREIGN if data[at:].startswith(magic)), None)
        found = f"is {foreign} file" if foreign else "is no image"
        raise InputError(f"{name}: {found}; expected JPEG, PNG, WebP or BMP")
    try:
        width, height, sample_bytes = checks[kind](data)
    except (ValueError, struct.error, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "truncated"
        raise InputError(f"{name}: damaged {kind.upper()} image ({reason})") from None
    if width < 1 or height < 1:
        raise InputError(f"{name}: damaged {kind.upper()} image ({width}x{height} pixels)")
    if width * height > MOST_PIXELS or width * height * sample_bytes > MOST_BYTES:
        raise InputError(f"{name}: {width}x{height} pixels are more than the {MOST_PIXELS // 10**6} million allowed")


def jpeg_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Find where a JPEG that begins at ``start`` ends, by its markers.

    Thumbnails inside APPn segments and restart markers inside the data are passed over.

    Returns:
        The index after its end-of-image marker; None where the data end before it.

    Raises:
        ValueError: something that is no marker stands where one must be, or a new image starts.
    """
    walker = JpegWalker(start)
    return walker.walk(data)


class JpegWalker:
    """Walks the markers of one JPEG, and goes on where it stopped when more bytes have come.

    Attributes:
        at: index of the next byte to look at.
        size: (width, height) in pixels, once its header has been passed.
    """

    def __init__(self, start: int = 0) -> None:
        self.at = start + 2
        self.size: tuple[int, int] | None = None
        self._in_scan = False

    def walk(self, data: bytes | bytearray) -> int | None:
        """Go on as far as the data reach; the index after the end marker, or None: needs more.

        Raises:
            ValueError: this is not (or no longer) the JPEG it began as.
        """
        while True:
            if self._in_scan:
                found = _MARKER.search(data, self.at)
                if found is None:
                    # A last FF may be the first half of a marker.
                    self.at = max(self.at, len(data) - 1)
                    return None
                self.at, self._in_scan = found.start(), False
            if len(data) < self.at + 2:
                return None
            if data[self.at] != 0xFF:
                raise ValueError("broken marker")
            marker = data[self.at + 1]
            if marker == 0xFF:
                self.at += 1
            elif marker == 0xD9:
                return self.at + 2
            elif marker == 0xD8:
                raise ValueError("truncated")
            elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
                self.at += 2
            elif not self._segment(data, marker):
                return None

    def _segment(self, data: bytes | bytearray, marker: int) -> bool:
        if len(data) < self.at + 4:
            return False
        (length,) = struct.unpack_from(">H", data, self.at + 2)
        if length < 2:
            raise ValueError("broken segment length")
        if len(data) < self.at + 2 + length:
            return False
        if marker in _FRAMES and length >= 8:
            height, width = struct.unpack_from(">HH", data, self.at + 5)
            self.size = (width, height)
        self.at += 2 + length
        self._in_scan = marker == 0xDA
        return True


def _check_jpeg(data: bytes) -> tuple[int, int, int]:
    walker = JpegWalker()
    end = walker.walk(data)
    if end is None:
        raise ValueError("truncated: its end marker is missing")
    if walker.size is None:
        raise ValueError("no picture in it")
    return *walker.size, 3


def _check_png(data: bytes) -> tuple[int, int, int]:
    at, size = len(_PNG), None
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ValueError(f"truncated, or a broken length in its {kind.decode('latin-1')!r} chunk")
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise ValueError("no header")
            width, height, depth, colour = struct.unpack_from(">IIBB", data, at + 8)
            size = (width, height, max(1, _SAMPLES.get(colour, 4) * depth // 8))
        if kind == b"IEND":
            return size
        at += 12 + length


def _check_webp(data: bytes) -> tuple[int, int, int]:
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        raise ValueError("truncated")
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1, 4
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF, 3


def _check_bmp(data: bytes) -> tuple[int, int, int]:
    length, _, offset, header = struct.unpack_from("<IIII", data, 2)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    rows = 0 if packing in (1, 2) else (width * bits + 31) // 32 * 4 * abs(height)
    if max(length, offset + rows) > len(data):
        raise ValueError("truncated")
    return width, abs(height), 4
