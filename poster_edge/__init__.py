"""poster-edge: facial-expression models from PyTorch to the camera.

``import poster_edge`` loads nothing heavy: no torch, no onnxruntime, no OpenCV.
"""

from __future__ import annotations

import os
from pathlib import Path

__version__ = "0.1.0"

# In a bare checkout ``export/``, ``calib/`` and ``kernels/`` stand beside this package; in a wheel
# they are inside it.  Adding the checkout to the search path serves both with one import name.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "export" / "__init__.py").is_file():
    __path__.append(str(_ROOT))

# OpenCV reads this once, when it is imported: larger pictures are refused instead of filling memory.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))
