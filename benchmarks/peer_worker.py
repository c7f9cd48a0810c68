"""One peer in a process of its own, asked by peers.py through pipes: names the expression of a face crop.

Runs in the peers' environment, so it imports nothing of this project but for its own entry.  A peer is
called as its own source calls it, from a 48x48 gray crop to probabilities; "as trained" feeds the crop to the
network alone, "own call" goes through the package's function for a face box, which frames the crop anew.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import cv2
import numpy as np

#: Name of a face's expression.
Peer = Callable[[Any], str]
FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FACEX = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def package(name: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def interpreter(path: Path) -> Any:
    """A LiteRT interpreter of one thread, which is its own default."""
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(model_path=str(path), num_threads=1)
    made.allocate_tensors()
    return made


def invoke(model: Any, batch: Any) -> Any:
    """One inference of a LiteRT model."""
    model.set_tensor(model.get_input_details()[0]["index"], batch)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])[0]


def fer_input(face: Any) -> Any:
    """The crop as fer 25.10.3 prepares it (``detect_emotions``): 64x64, -1 to 1."""
    resized = cv2.resize(face, (64, 64)).astype("float32") / 255.0
    return ((resized - 0.5) * 2.0)[None, :, :, None]


def fer_tflite() -> tuple[Peer, str, Path]:
    """fer's quantised model, its default."""
    path = package("fer") / "data" / "emotion_model_quantized.tflite"
    model = interpreter(path)
    return lambda face: FER[int(np.argmax(invoke(model, fer_input(face))))], "LiteRT", path


def fer_tflite_own() -> tuple[Peer, str, Path]:
    """The same through ``detect_emotions`` with the whole crop as the face's box.

    It pads the picture by 40 pixels of the lowest rows' mean and takes a box 10 pixels larger on each side.
    """
    classify, what, path = fer_tflite()

    def name(face: Any) -> str:
        mean = cv2.mean(face[-2:])[0]
        padded = cv2.copyMakeBorder(face, 10, 10, 10, 10, cv2.BORDER_CONSTANT, value=[mean] * 3)
        return classify(padded)

    return name, what, path


def fer_keras() -> tuple[Peer, str, Path]:
    """fer's Keras model, called as its source calls it."""
    import tensorflow as tf

    path = package("fer") / "data" / "emotion_model.hdf5"
    model = tf.keras.models.load_model(path, compile=False)
    return lambda face: FER[int(np.argmax(model(fer_input(face))[0]))], f"TensorFlow {tf.__version__}", path


def facex() -> tuple[Peer, str, Path]:
    """facex's model and its own preparation: scikit-image's resize to 200x200x3."""
    from skimage.transform import resize

    path = package("facex") / "assets" / "model_optimized.tflite"
    model = interpreter(path)

    def name(face: Any) -> str:
        # As in its input_resize: the result is within 0 to 1 already, as resize scales integers.
        batch = np.expand_dims(resize(face, (200, 200, 3)), axis=0).astype(np.float32)
        return FACEX[int(np.argmax(invoke(model, batch)))]

    return name, "LiteRT", path


def ours(model: str, runtime: str, precision: str) -> tuple[Peer, str, Path]:
    """A packaged model of this project, from the folder that POSTER_EDGE_PEER_BUNDLES names."""
    from poster_edge.runtime.bundle import load_bundle
    from poster_edge.runtime.classifier import Classifier

    bundle = load_bundle(str(Path(os.environ["POSTER_EDGE_PEER_BUNDLES"]) / model))
    classifier = Classifier(bundle, runtime=runtime, precision=precision, device="cpu", threads=1)
    classifier.__enter__()
    file = bundle.model_file(precision)
    return (
        lambda face: classifier.classes[int(classifier([face])[0].argmax())],
        classifier.runtime,
        bundle.folder / file,
    )


#: Packaged models of this project.
OURS = ("poster-mini", "poster-nano")
PEERS: dict[str, Callable[[], tuple[Peer, str, Path]]] = {
    "fer 25.10.3 tflite, as trained": fer_tflite,
    "fer 25.10.3 tflite, own call": fer_tflite_own,
    "fer 25.10.3 Keras, as trained": fer_keras,
    "facex 1.1.0": facex,
    **{
        f"{model} {runtime} {precision}": partial(ours, model, runtime, precision)
        for model in OURS
        for runtime in ("onnxruntime", "openvino")
        for precision in ("fp32", "int8")
    },
}


def memory_mib() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), float("nan"))


def read(stream: BinaryIO) -> Any:
    """The next message of a pipe, or None at its end."""
    head = stream.read(4)
    return pickle.loads(stream.read(struct.unpack("<I", head)[0])) if len(head) == 4 else None


def write(stream: BinaryIO, message: Any) -> None:
    """Send a message."""
    data = pickle.dumps(message)
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def main() -> None:
    """Answer until the pipe closes."""
    out = os.fdopen(os.dup(1), "wb")
    # Libraries print; the pipe is for answers.
    os.dup2(2, 1)
    cv2.setNumThreads(1)
    faces: list[Any] = []
    peer, what, path = PEERS[sys.argv[1]]()
    position = 0
    write(out, {"what": what, "bytes": path.stat().st_size, "file": path.name})
    while (message := read(sys.stdin.buffer)) is not None:
        command, value = message
        if command == "faces":
            faces = value
            write(out, len(faces))
        elif command == "turn":
            # The pause and the untimed call of poster_edge/runtime/timing.py.
            time.sleep(0.03)
            peer(faces[position % len(faces)])
            times = []
            for _ in range(value):
                face = faces[position % len(faces)]
                position += 1
                began = time.perf_counter()
                peer(face)
                times.append(1e3 * (time.perf_counter() - began))
            write(out, times)
        elif command == "memory":
            write(out, memory_mib())
        elif command == "names":
            write(out, [peer(face) for face in faces])


if __name__ == "__main__":
    main()
