"""The contract of everything that executes a model."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray


class Runner(Protocol):
    """A context manager that executes one model; nothing is loaded before it is entered.

    Attributes:
        description: what really runs, such as "onnxruntime 1.32 (CPU, 2 threads)".
        file: name of the bundle's model that it runs.
    """

    description: str
    file: str

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once.

        Args:
            feed: input name -> array.

        Returns:
            output name -> array.
        """
