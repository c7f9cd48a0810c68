"""torch.compile beside the kernels of this project: it translates what they do not compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from poster_edge.errors import UnavailableError
from poster_edge.models.network import Network

#: POSTER's backbones, by their names in the published files.
_STREAMS = ("ir_back", "face_landback")


def translate(network: Network, *, backend: str = "inductor") -> None:
    """Have torch.compile translate a network's backbones in place, when they are first called.

    The pyramid stays as it is, so that the fused kernels may serve it: inside of a translated network they cannot.
    A network without such backbones (FER-VT, CF-DAN) is translated whole.

    Args:
        network: in evaluation mode, on its device.
        backend: "inductor", or another of torch's.
    """
    parts = [getattr(network, name) for name in _STREAMS if hasattr(network, name)]
    for part in parts or [network]:
        part.compile(backend=backend)


@contextmanager
def translatable() -> Iterator[None]:
    """Around every call of what torch.compile translates, which it does when it is called.

    Raises:
        UnavailableError: it cannot be translated here, for want of a compiler for instance.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnavailableError(f"torch.compile cannot translate the network here: {first}; leave it out") from error
