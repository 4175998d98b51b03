"""What a checkpoint is made of: which files are needed, and what is wrong with a folder that lacks some.

A checkpoint is `config.json`, a tokenizer and weights, as transformers names them; a model that
sentence-transformers saved in several modules has folders beside them (`1_Dense`). The same weights often lie
there in five formats: safetensors is what counts, and pickled files only where they are allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json_object

_CHECKPOINT_HINT = "A checkpoint is config.json, a tokenizer and weights (model.safetensors)."
_TEXT_SUFFIXES = (".json", ".txt", ".jinja", ".tiktoken", ".model", ".spm", ".md")
LEGAL_NAMES = ("LICENSE", "LICENCE", "NOTICE")
_TOKENIZER_NAMES = {
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
}
# Folders that sentence-transformers makes: the place of a module and its class.
_MODULE_FOLDER = re.compile(r"(?:\d+_\w+|additional_chat_templates)/[^/]+")
_OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
    "flax_model.msgpack": "Flax",
    "tf_model.h5": "TensorFlow",
}
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps a checkpoint from being used: `cause` goes on after its name, `hint` is the way out."""

    cause: str
    hint: str = _CHECKPOINT_HINT


@dataclass(frozen=True, slots=True)
class _WeightsFormat:
    """How transformers names weights: whole (`model.safetensors`) or in shards beside an index."""

    stem: str
    suffix: str

    @property
    def whole(self) -> str:
        return f"{self.stem}{self.suffix}"

    @property
    def index(self) -> str:
        return f"{self.whole}.index.json"

    def select(self, names: Collection[str], folder: str = "") -> list[str]:
        """Give those of the names that are weights in this format, in a folder such as `1_Dense/`."""
        if folder + self.whole in names:
            return [folder + self.whole]
        shard = re.compile(re.escape(folder + self.stem) + r"-\d+-of-\d+" + re.escape(self.suffix))
        shards = sorted(name for name in names if shard.fullmatch(name))
        return [*shards, folder + self.index] if folder + self.index in names else []


_SAFETENSORS = _WeightsFormat("model", ".safetensors")
_PICKLED = _WeightsFormat("pytorch_model", ".bin")


def select_files(listed: Collection[str], *, with_code: bool) -> list[str]:
    """Select the files of a published model that it takes to run it, `config.json` last.

    `listed` are the paths of all its files. Pickled weights are selected only where there are no safetensors
    beside them; Python files only `with_code`.
    """
    folders = {name.rpartition("/")[0] + "/" for name in listed if _MODULE_FOLDER.fullmatch(name)}
    selected = []
    for folder in ["", *sorted(folders)]:
        selected += _SAFETENSORS.select(listed, folder) or _PICKLED.select(listed, folder)
    for name in sorted(listed):
        own_name = name.rpartition("/")[2]
        is_text = name.endswith(_TEXT_SUFFIXES) or own_name.startswith(LEGAL_NAMES)
        in_place = "/" not in name or _MODULE_FOLDER.fullmatch(name)
        is_other_index = name.endswith(".index.json")
        if (is_text and in_place and not is_other_index) or (with_code and name.endswith(".py")):
            selected.append(name)
    # What has a config.json is then complete, wherever a download was cut off.
    return sorted(selected, key="config.json".__eq__)


def select_pickled(names: Collection[str]) -> list[str]:
    """Give the pickled weights that would be loaded: those with no safetensors in the same folder."""
    folders = {name.rpartition("/")[0] + "/" for name in names if _MODULE_FOLDER.fullmatch(name)}
    return [
        name
        for folder in ["", *sorted(folders)]
        if not _SAFETENSORS.select(names, folder)
        for name in _PICKLED.select(names, folder)
    ]


def list_files(folder: Path) -> list[str]:
    """List the files of a folder, and of the folders in it, that are there and hold something.

    Links that lead nowhere are left out: interrupted downloads and moved caches leave those.
    """
    return sorted(
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.is_file() and path.stat().st_size > 0
    )


def find_fault(
    names: Collection[str], folder: Path | None, *, allow_pickle: bool, with_code: bool = False
) -> Fault | None:
    """Say what keeps a model with these files from being used; None when nothing does.

    `folder` is where they lie, or None for files that are only known by name. With `with_code`, the Python
    files that the configuration asks for must be there.
    """
    if "config.json" not in names:
        return _adapter_fault(names, folder) or _other_format_fault(names) or Fault("has no config.json")
    weights = _SAFETENSORS.select(names)
    if not weights:
        weights = _PICKLED.select(names)
        if not weights:
            return (
                _adapter_fault(names, folder)
                or _other_format_fault(names)
                or Fault("has no model.safetensors")
            )
    pickled = select_pickled(names)
    if pickled and not allow_pickle:
        return Fault(
            f"has pickled weights ({pickled[0]}), which can run any code when they are loaded",
            "Give --allow-pickle if you trust who made them, or choose a model with safetensors.",
        )
    if not any(name in _TOKENIZER_NAMES or name.endswith(".tiktoken") for name in names):
        return Fault("has no tokenizer (tokenizer.json or the like)")
    if folder is None:
        return None
    return _content_fault(names, folder, weights, with_code=with_code)


def is_cross_encoder(folder: Path) -> bool:
    """Say whether a checkpoint declares itself a cross-encoder with one score; cheap, for lists of models."""
    if read_json_object(folder / "config_sentence_transformers.json").get("model_type") == "CrossEncoder":
        return True
    config = read_json_object(folder / "config.json")
    architecture = str((config.get("architectures") or [""])[0])
    labels = config.get("id2label")
    # transformers assumes two labels where none are named.
    count = len(labels) if isinstance(labels, dict | list) else 0
    return architecture.endswith("ForSequenceClassification") and count == 1


def list_code(folder: Path) -> list[str]:
    """Say, a phrase for each, which Python code a checkpoint brings along and would have run.

    That is what transformers takes by `auto_map`, modules of no known library, and an activation of its own.
    """
    code = []
    for role, reference in _auto_map(folder).items():
        repository, _, own = reference.rpartition("--")
        file, _, named = own.partition(".")
        code.append(f"{file}.py{f' of {repository}' if repository else ''} ({role}: {named})")
    for module in read_modules(folder):
        named = str(module.get("type", ""))
        if not named.startswith(("sentence_transformers.", "torch.", "transformers.")):
            code.append(f"the module {named}")
    return code


def _content_fault(
    names: Collection[str], folder: Path, weights: Iterable[str], *, with_code: bool
) -> Fault | None:
    """Find what is wrong with files that are there: missing shards, modules or code, and pointers."""
    needed: list[str] = []
    for name in weights:
        if name.endswith(".index.json"):
            needed += sorted(set(read_json_object(folder / name).get("weight_map", {}).values()))
        elif _is_lfs_pointer(folder / name):
            return Fault(f"holds a Git LFS pointer in place of {name}", f"Run in {folder}: git lfs pull")
    if with_code:
        needed += _code_files(folder)
    missing = [name for name in needed if name not in names]
    for module in read_modules(folder):
        path = str(module.get("path", "")).strip("/")
        # Normalize has nothing to save, and git keeps no empty folders.
        is_empty = str(module.get("type", "")).endswith(".Normalize")
        if path and not is_empty and not any(name.startswith(f"{path}/") for name in names):
            missing.append(f"{path}/")
    if missing:
        return Fault(
            f"is not complete: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} missing"
        )
    return None


def _adapter_fault(names: Collection[str], folder: Path | None) -> Fault | None:
    if "adapter_config.json" not in names:
        return None
    adapter = read_json_object(folder / "adapter_config.json") if folder else {}
    base = adapter.get("base_model_name_or_path")
    return Fault(
        "is an adapter, not a whole model",
        f"Merge it into its base model{f' ({base})' if base else ''} and give the folder of the result.",
    )


def _other_format_fault(names: Collection[str]) -> Fault | None:
    for suffix, label in _OTHER_FORMATS.items():
        found = sorted(name for name in names if name.endswith(suffix))
        if found:
            return Fault(f"has only {label} weights ({found[0]}), which cannot be loaded here")
    return None


def _code_files(folder: Path) -> list[str]:
    """Name the Python files that a checkpoint's `auto_map` takes from its own folder."""
    own = (reference for reference in _auto_map(folder).values() if "--" not in reference)
    return sorted({f"{reference.partition('.')[0]}.py" for reference in own})


def _auto_map(folder: Path) -> dict[str, str]:
    """Give the classes that a checkpoint brings: transformers' class for each, to `FILE.CLASS`.

    One that comes from another repository is `OWNER/NAME--FILE.CLASS`. A tokenizer may name two, slow and
    fast, of which either may be null.
    """
    classes = {}
    for name in ("config.json", "tokenizer_config.json"):
        for role, references in (read_json_object(folder / name).get("auto_map") or {}).items():
            for reference in references if isinstance(references, list) else [references]:
                if reference:
                    classes[role] = str(reference)
    return classes


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Give the modules that sentence-transformers saved a checkpoint in; none where it lists none."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER
