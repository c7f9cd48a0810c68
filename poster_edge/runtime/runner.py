"""The contract of everything that executes a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from poster_edge.runtime.manifest import BundleError, Manifest


class Pending(Protocol):
    """An inference under way.

    Attributes:
        infer_ms: time that it took by itself, what it waited for left out; known once :meth:`result` has returned.
    """

    infer_ms: float

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait for the outputs: name -> array."""


class AsyncRunner(Protocol):
    """A :class:`Runner` that can work while its caller does something else."""

    def submit(self, feed: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin what :meth:`Runner.infer` does, and return at once.

        Two may be under way: a third waits for the first.  The feed may be changed as soon as this returns.
        """


def asynchronous(runner: Runner) -> AsyncRunner | None:
    """The runner where it can work while its caller does something else, else None."""
    return cast(AsyncRunner, runner) if hasattr(runner, "submit") else None


class Runner(Protocol):
    """A context manager that executes one model; nothing is loaded before it is entered.

    One that has ``submit`` too is an :class:`AsyncRunner`.

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


def check_fit(
    file: str, manifest: Manifest, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]
) -> None:
    """Refuse a model whose names or shapes are not the manifest's.

    Args:
        file: name of the model.
        manifest: of its bundle.
        inputs: name -> shape, whose first entry is the batch and may be anything.
        outputs: the same of the outputs.

    Raises:
        BundleError: says what the model has and what the manifest promises.
    """
    size, classes = manifest.preprocess.size, len(manifest.classes)
    if list(inputs) != [manifest.input_name] or list(inputs[manifest.input_name][1:]) != [3, size, size]:
        raise BundleError(
            f"{file}: inputs {inputs} do not fit the manifest, '{manifest.input_name}' (N, 3, {size}, {size})"
        )
    if list(outputs.get(manifest.output_name, ())[1:]) != [classes]:
        raise BundleError(f"{file}: outputs {outputs} do not fit the manifest, '{manifest.output_name}' (N, {classes})")
