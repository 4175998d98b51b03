"""A checkpoint: which files it needs, what they say, and whether it can rank.

A checkpoint is `config.json`, a tokenizer and weights, as transformers names them. A model that
sentence-transformers saved in several modules also has a folder for each (`1_Dense`). Of weights in several
formats we use safetensors, and pickled files only if they are allowed. Nothing here loads a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import UnavailableError
from .catalog import DEFAULT_NAME

LONGEST = 2**31 - 1
"""The longest limit in tokens; a larger number in a configuration means that there is no limit."""
LEGAL_NAMES = ("LICENSE", "LICENCE", "NOTICE")
ACTIVATION_NAMES = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
}
"""Our names for the activations that configurations name."""

_TOKENIZER = re.compile(
    r"tokenizer\.(json|model)|vocab\.(txt|json)|(spiece|spm|sentencepiece\.bpe)\.model|.*\.tiktoken"
)
# The folder that sentence-transformers makes for a module: its place and its class.
_MODULE_FOLDER = r"(\d+_\w+|additional_chat_templates)/"
# Whole, or in shards beside an index; of the model, or of a module.
_SAFETENSORS = re.compile(r"(\d+_\w+/)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"(\d+_\w+/)?pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
# Everything beside the weights.
_TEXTS = re.compile(
    rf"({_MODULE_FOLDER})?([^/]*\.(json|txt|jinja|tiktoken|model|spm|md)|({'|'.join(LEGAL_NAMES)})[^/]*)"
)
_LFS_POINTER = b"version https://git-lfs"

_Json = TypeVar("_Json", dict[str, Any], list[dict[str, Any]])

_PARTS_HINT = "A checkpoint is config.json, a tokenizer and weights (model.safetensors)."
_DAMAGE_HINT = "Copy it here again, or `ce-rerank models pull` a model from the hub again."
_DAMAGE = (AttributeError, LookupError, TypeError, ValueError)  # raised by what damaged files say
_RANKING_HINT = f"Choose a cross-encoder with one label, such as {DEFAULT_NAME}."


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a checkpoint cannot be used: `cause` continues a sentence that begins with its name.

    `by_fetching` is whether fetching the model again may help.
    """

    cause: str
    hint: str = _PARTS_HINT
    by_fetching: bool = True

    def as_error(self, name: str) -> UnavailableError:
        """Return the error for the checkpoint of this name."""
        return UnavailableError(f"{name} {self.cause}.", hint=self.hint)


def select_files(listed: Collection[str], *, with_code: bool) -> list[str]:
    """Select the files that running a published model needs, `config.json` last.

    `listed` are the paths of all its files. Pickled weights are selected only if there are no safetensors
    beside them, and Python files only `with_code`.
    """
    safetensors, pickled = _select_weights(listed)
    texts = (name for name in filter(_TEXTS.fullmatch, listed) if not name.endswith(".index.json"))
    code = (name for name in listed if with_code and name.endswith(".py"))
    # A folder with a config.json is then complete, wherever a download was cut off.
    return sorted({*safetensors, *pickled, *texts, *code}, key=lambda name: (name == "config.json", name))


def find_missing(names: Collection[str], *, allow_pickle: bool) -> Fault | None:
    """Return what a model with files of these names lacks, or must not have; None if all is well."""
    safetensors, pickled = _select_weights(names)
    if "config.json" not in names or all("/" in name for name in safetensors + pickled):
        if "adapter_config.json" in names:
            hint = "Merge it into its model (peft: merge_and_unload), and save the whole."
            return Fault("holds a PEFT adapter, and no model that it belongs to", hint)
        return Fault(f"has no {'model.safetensors' if 'config.json' in names else 'config.json'}")
    if pickled and not allow_pickle:
        return Fault(
            f"has pickled weights ({pickled[0]}), which can run any code when they are loaded",
            "Give --allow-pickle if you trust who made them, or choose a model with safetensors.",
        )
    if not any(map(_TOKENIZER.fullmatch, names)):
        return Fault("has no tokenizer (tokenizer.json or the like)")
    return None


@dataclass(frozen=True)
class Checkpoint:
    """Weights as published, in an ordinary folder on this machine.

    `name` is what the user called it. `revision` is the commit of the hub, None for a folder. `notes` are
    short phrases that its user should know. The source `compiled` is an exported folder: it holds a compiled
    model instead of weights as published.

    The properties are what its files say. They raise ValueError, TypeError or the like for a damaged file,
    which `find_fault` reports.
    """

    name: str
    folder: Path
    source: Literal["hub", "folder", "offline", "compiled"]
    revision: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def files(self) -> Mapping[str, int]:
        """The files of the folder and of the folders in it: names to sizes in bytes.

        Empty files, and links that lead nowhere, are left out: interrupted downloads leave them.
        """
        found = {}
        for pattern in ("*", "*/*"):
            for path in self.folder.glob(pattern):
                if path.is_file() and (size := path.stat().st_size):
                    found[path.relative_to(self.folder).as_posix()] = size
        return dict(sorted(found.items()))

    # The configurations of the model, its tokenizer and sentence-transformers, and the modules of the latter.
    _config = cached_property(lambda self: self._read_json("config.json", {}))
    _tokenizer_config = cached_property(lambda self: self._read_json("tokenizer_config.json", {}))
    _library_config = cached_property(lambda self: self._read_json("config_sentence_transformers.json", {}))
    _modules = cached_property(lambda self: self._read_json("modules.json", []))

    @property
    def architecture(self) -> str:
        """The class of transformers that it was saved from; empty if none is named."""
        named = self._config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def family(self) -> str:
        """The type of model, as transformers names it; empty if none is named."""
        return str(self._config.get("model_type") or "")

    @property
    def _is_cross_encoder(self) -> bool:
        return bool(self._library_config.get("model_type") == "CrossEncoder")

    @property
    def is_causal(self) -> bool:
        """Whether it is a causal language model, whose answer (yes or no) is the score."""
        return self.architecture.endswith("ForCausalLM")

    @property
    def declares_reranker(self) -> bool:
        """Whether a model that can rank says that it is meant to; a causal model may be made to write."""
        return self._is_cross_encoder or not self.is_causal

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its head; a reranker has one."""
        named = self._config.get("id2label") or {}
        count = self._config.get("num_labels", 2)  # as transformers assumes
        return tuple(map(str, named.values())) or tuple(f"LABEL_{number}" for number in range(count))

    @property
    def _named_activations(self) -> list[str]:
        """The dotted names of activations; sentence-transformers uses the first, or else a sigmoid."""
        named = (
            self._library_config.get("activation_fn"),
            (self._config.get("sentence_transformers") or {}).get("activation_fn"),
            self._config.get("sbert_ce_default_activation_function"),
            "torch.nn.Sigmoid",
        )
        return [str(name) for name in named if name]

    @property
    def activation(self) -> str:
        """What sentence-transformers applies to the logit: `identity`, `sigmoid` or a dotted name."""
        named = self._named_activations[0]
        return ACTIVATION_NAMES.get(named, named)

    @property
    def foreign_activation(self) -> str | None:
        """The dotted name of an activation that is not torch's; None if there is none.

        sentence-transformers replaces it, which changes scores, unless remote code is trusted.
        """
        return next((name for name in self._named_activations if not name.startswith("torch.")), None)

    @property
    def max_length(self) -> int | None:
        """The smallest limit that is declared, in tokens of a pair; None if there is none."""
        declared = (
            self._read_json("sentence_bert_config.json", {}).get("max_seq_length"),
            self._tokenizer_config.get("model_max_length"),
            self._config.get("max_position_embeddings"),
        )
        limits = [int(limit) for limit in declared if isinstance(limit, int | float) and 0 < limit < LONGEST]
        return min(limits, default=None)

    @property
    def pickled(self) -> list[str]:
        """The pickled weights that would be loaded: those without safetensors in the same folder."""
        return _select_weights(self.files)[1]

    @property
    def code(self) -> list[str]:
        """The model's own Python code that loading it would run, a phrase for each piece."""
        code = [f"{named} ({role})" for role, named in self._own_classes().items()]
        for module in self._modules:
            named = str(module.get("type", ""))
            if not named.startswith(("sentence_transformers.", "torch.", "transformers.")):
                code.append(f"the module {named}")
        if self.foreign_activation:
            code.append(f"the activation {self.foreign_activation}")
        return code

    @property
    def tensors(self) -> dict[str, list[int]]:
        """The names and shapes of the weights in its safetensors files; empty if one cannot be read."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, list[int]] = {}
        try:
            for name in self.files:
                if name.endswith(".safetensors"):
                    with safe_open(self.folder / name, "np") as file:
                        names = file.keys()
                        found |= {tensor: file.get_slice(tensor).get_shape() for tensor in names}
        except (OSError, SafetensorError):
            return {}
        return found

    @property
    def licence(self) -> str | None:
        """The licence that its card names."""
        from huggingface_hub import metadata_load
        from yaml import YAMLError

        try:
            named = (metadata_load(self.folder / "README.md") or {}).get("license")
        except (OSError, ValueError, YAMLError):
            return None
        return str(named) if named else None

    def require_usable(self, *, allow_pickle: bool = False, with_code: bool = False) -> None:
        """Raise UnavailableError if `find_fault` finds something."""
        fault = self.find_fault(allow_pickle=allow_pickle, with_code=with_code)
        if fault is not None:
            raise fault.as_error(self.name)

    def find_fault(self, *, allow_pickle: bool = False, with_code: bool = False) -> Fault | None:
        """Return why it cannot be used to rank; None if its files show no reason.

        `with_code` also looks for the Python files that its configuration names.
        """
        if self.source == "compiled":  # is checked when it is opened
            return None
        fault = find_missing(self.files, allow_pickle=allow_pickle)
        if fault is not None:
            return fault
        try:
            _ = self.code, self.max_length, self.activation  # raises if one of them cannot be read
            return self._find_incomplete(with_code=with_code) or self._find_other_kind()
        except _DAMAGE as error:
            return Fault(f"is damaged: {error}", _DAMAGE_HINT)

    def _find_incomplete(self, *, with_code: bool) -> Fault | None:
        """Return what is missing of weights, modules and code, or which weights are only Git LFS pointers."""
        weights = self._list_weights()
        missing = sorted(weights - self.files.keys())
        if with_code:
            named = [one for one in self._own_classes().values() if "--" not in one]
            own = {f"{one.partition('.')[0]}.py" for one in named}
            missing += sorted(own - self.files.keys())
        for module in self._modules:
            path = str(module.get("path", "")).strip("/")
            # In any other folder weights would be loaded without a check of their format.
            if path and not re.fullmatch(_MODULE_FOLDER, f"{path}/"):
                raise ValueError(f"{path!r} in modules.json is no folder of a module")
        if missing:
            return Fault(f"is not complete: {', '.join(missing[:3])} missing")
        for name in sorted(weights):
            with (self.folder / name).open("rb") as file:
                if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                    hint = f"Run in {self.folder}: git lfs pull"
                    return Fault(f"holds a Git LFS pointer in place of {name}", hint)
        return None

    def _list_weights(self) -> set[str]:
        """List the weights that are loaded: files that hold all, and the shards that indices name."""
        safetensors, pickled = _select_weights(self.files)
        weights = {*safetensors, *pickled}
        for index in safetensors + pickled:
            whole = index.removesuffix(".index.json")
            if whole in weights:  # so is every file that is no index
                continue
            folder, suffix = index.rpartition("/")[0], whole.rpartition(".")[2]
            for shard in self._read_json(index, {})["weight_map"].values():
                if not re.fullmatch(rf"[^/\\]+\.{suffix}", str(shard)):
                    raise ValueError(f"{index} names {shard}, and must name files that end in .{suffix}")
                weights.add(f"{folder}/{shard}".lstrip("/"))
        return weights

    def _find_other_kind(self) -> Fault | None:
        """Return what it is, if it is no reranker: it may load, with a head that is random or has labels."""
        architecture, own_classes = self.architecture, self._own_classes()
        kind = "ForSequenceClassification"
        is_classifier = architecture.endswith(kind) or f"AutoModel{kind}" in own_classes
        if not is_classifier and (self._is_cross_encoder or self.is_causal):
            return None
        # Whatever the class is called: transformers uses a head that maps a vector to one number.
        has_score_head = not (is_classifier or own_classes) and any(
            len(shape) == 2 and shape[0] == 1 and "embed" not in name for name, shape in self.tensors.items()
        )
        named = architecture or "model of no named architecture"
        if is_classifier or has_score_head:
            if len(self.labels) == 1:
                return None
            labels = f"{len(self.labels)} labels ({', '.join(self.labels)})"
            cause = f"is a classifier with {labels}, not a reranker"
        elif self._modules or architecture.endswith("Model"):
            cause = f"is an embedding model ({named}), which cannot score pairs"
        else:
            cause = f"is a {named}, which cannot score pairs"
        return Fault(cause, _RANKING_HINT, by_fetching=False)

    def _own_classes(self) -> dict[str, str]:
        """Return its own classes by their roles, as `FILE.CLASS` or `REPOSITORY--FILE.CLASS`."""
        classes = {}
        for config in (self._config, self._tokenizer_config):
            for role, named in (config.get("auto_map") or {}).items():
                # A tokenizer may name two, slow and fast; either may be null.
                for one in filter(None, named if isinstance(named, list) else [named]):
                    classes[role] = str(one)
        return classes

    def _read_json(self, name: str, absent: _Json) -> _Json:
        """Read a JSON file that holds the type of `absent`; return `absent` if there is no file."""
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return absent
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        if not isinstance(value, type(absent)):
            raise ValueError(f"{name} is no JSON {'object' if isinstance(absent, dict) else 'list'}")
        return value


def _select_weights(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Select the weights of the model and its modules: safetensors, and pickled ones where there are none."""
    safetensors = sorted(filter(_SAFETENSORS.fullmatch, names))
    folders = {name.rpartition("/")[0] for name in safetensors}
    pickled = sorted(filter(_PICKLED.fullmatch, names))
    return safetensors, [name for name in pickled if name.rpartition("/")[0] not in folders]
