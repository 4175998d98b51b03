"""What a checkpoint is made of, what its files say, and whether it can be used to rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from ce_rerank import UnavailableError
from ce_rerank.models.checkpoint import Checkpoint, find_missing, select_files

WHOLE = ["config.json", "model.safetensors", "tokenizer.json"]
RERANKER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def make_checkpoint(folder: Path, files: dict[str, object] | None = None, **config: object) -> Checkpoint:
    """Make a reranker of which nothing is missing, with these files and these entries of its config.json."""
    whole = {"config.json": RERANKER | config, "model.safetensors": "x", "tokenizer.json": {}}
    for name, content in {**whole, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else _as_text(content).encode())
    return Checkpoint("some/model", folder, "folder")


def _as_text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def make_weights(**shapes: list[int]) -> dict[str, object]:
    """Make a safetensors file with weights of these names and shapes."""
    weights = {name.replace("__", "."): np.zeros(shape, np.float16) for name, shape in shapes.items()}
    return {"model.safetensors": save(weights)}


def saved_as(architecture: str, **auto_map: str) -> dict[str, object]:
    """Return the entries of a config.json that name a class of transformers, and classes of its own."""
    return {"architectures": [architecture], "auto_map": auto_map}


CROSS_ENCODER = {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}}


def fault_of(checkpoint: Checkpoint, **trust: bool) -> str | None:
    fault = Checkpoint("", checkpoint.folder, "folder").find_fault(**trust)
    return fault and fault.cause


@pytest.mark.parametrize(
    ("listed", "with_code", "selected"),
    [
        # Of the same weights in five formats, safetensors.
        (
            ".gitattributes README.md flax_model.msgpack onnx/config.json onnx/model.onnx "
            "openvino/openvino_model.bin openvino/openvino_model.xml pytorch_model.bin "
            "special_tokens_map.json tf_model.h5 vocab.txt model.safetensors",
            False,
            "README.md special_tokens_map.json vocab.txt model.safetensors",
        ),
        ("pytorch_model.bin training_args.bin vocab.txt", False, "pytorch_model.bin vocab.txt"),
        # Shards with their index, and no other index.
        (
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json "
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            False,
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        ),
        # The modules of sentence-transformers.
        (
            "1_Dense/config.json 1_Dense/model.safetensors 1_Dense/pytorch_model.bin modules.json "
            "additional_chat_templates/reranker.jinja model.safetensors runs/events.json",
            False,
            "1_Dense/config.json 1_Dense/model.safetensors modules.json "
            "additional_chat_templates/reranker.jinja model.safetensors",
        ),
        ("model.safetensors modeling.py custom/layers.py evil.pkl", False, "model.safetensors"),
        (
            "model.safetensors modeling.py custom/layers.py evil.pkl",
            True,
            "model.safetensors modeling.py custom/layers.py",
        ),
    ],
)
def test_the_files_that_it_takes_are_selected_with_the_configuration_last(
    listed: str, with_code: bool, selected: str
) -> None:
    found = select_files([*listed.split(), "tokenizer.json", "config.json"], with_code=with_code)
    assert found[-1] == "config.json"
    assert sorted(found) == sorted([*selected.split(), "tokenizer.json", "config.json"])


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (WHOLE, None),
        (["config.json", "model.safetensors", "spiece.model"], None),
        (["config.json", "tokenizer.json"], "has no model.safetensors"),
        (["config.json", "model.safetensors"], "has no tokenizer (tokenizer.json or the like)"),
        (
            [*WHOLE, "1_Dense/config.json", "1_Dense/pytorch_model.bin"],
            "has pickled weights (1_Dense/pytorch_model.bin), which can run any code when they are loaded",
        ),
        ([*WHOLE, "pytorch_model.bin"], None),
        (["adapter_config.json"], "holds a PEFT adapter, and no model that it belongs to"),
        ([], "has no config.json"),
    ],
)
def test_what_is_missing_follows_from_the_names_alone(names: list[str], cause: str | None) -> None:
    fault = find_missing(names, allow_pickle=False)
    assert (fault and fault.cause) == cause


class TestIncomplete:
    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
        made = make_checkpoint(tmp_path, {"model.safetensors.index.json": index, shards[0]: "x"})
        (tmp_path / "model.safetensors").unlink()
        assert fault_of(made) == f"is not complete: {shards[1]} missing"
        (tmp_path / shards[1]).write_text("x")
        assert fault_of(made) is None

    @pytest.mark.parametrize(
        "weight_map", [{"a": "evil.bin"}, {"a": "../model.safetensors"}, {"a": 1}, ["a"]]
    )
    def test_an_index_names_nothing_but_safetensors_beside_it(
        self, tmp_path: Path, weight_map: object
    ) -> None:
        index = "1_Dense/model.safetensors.index.json"
        made = make_checkpoint(tmp_path, {index: {"weight_map": weight_map}, "evil.bin": "x"})
        assert (fault_of(made, allow_pickle=True) or "").startswith("is damaged: ")

    @pytest.mark.parametrize("target", ["../../blobs/gone", "empty"])
    def test_a_link_that_leads_nowhere_and_an_empty_file_are_missing(
        self, tmp_path: Path, target: str
    ) -> None:
        made = make_checkpoint(tmp_path, {"empty": ""})
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "model.safetensors").symlink_to(target)
        assert fault_of(made) == "has no model.safetensors"

    def test_a_pointer_of_git_lfs_is_not_taken_for_weights(self, tmp_path: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        made = make_checkpoint(tmp_path, {"model.safetensors": pointer})
        assert fault_of(made) == "holds a Git LFS pointer in place of model.safetensors"

    @pytest.mark.parametrize("path", ["evil", "1_Dense/../evil"])
    def test_a_module_is_in_a_folder_of_its_own(self, tmp_path: Path, path: str) -> None:
        module = {"path": path, "type": "sentence_transformers.models.Dense"}
        made = make_checkpoint(tmp_path, {"modules.json": [module], "evil/pytorch_model.bin": "x"})
        assert fault_of(made) == f"is damaged: {path!r} in modules.json is no folder of a module"

    def test_code_that_the_configuration_names_must_be_there_once_it_is_trusted(self, tmp_path: Path) -> None:
        auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "other/place--modeling.X"}
        made = make_checkpoint(tmp_path, auto_map=auto_map)
        assert fault_of(made) is None
        assert fault_of(made, with_code=True) == "is not complete: configuration_x.py missing"
        (tmp_path / "configuration_x.py").write_text("x")
        assert fault_of(made, with_code=True) is None

    @pytest.mark.parametrize("name", ["config.json", "sentence_bert_config.json"])
    @pytest.mark.parametrize("content", ["{", "3", "[" * 100_000])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path, name: str, content: str) -> None:
        cause = fault_of(make_checkpoint(tmp_path, {name: content})) or ""
        assert cause.startswith(f"is damaged: {name} ")

    @pytest.mark.parametrize("config", [{"id2label": ["L"]}, {"auto_map": [1]}])
    def test_a_configuration_of_odd_content_is_damaged(self, tmp_path: Path, config: dict[str, Any]) -> None:
        assert (fault_of(make_checkpoint(tmp_path, **config)) or "").startswith("is damaged: ")


class TestKind:
    @pytest.mark.parametrize(
        ("config", "files", "declares"),
        [
            ({}, {}, True),
            ({"id2label": None, "num_labels": 1}, {}, True),
            (saved_as("Qwen3ForCausalLM"), {}, False),
            (saved_as("Qwen3ForCausalLM"), CROSS_ENCODER, True),
            (saved_as("New", AutoModelForSequenceClassification="modeling.New"), {}, True),
            (saved_as("ModernBertModel"), CROSS_ENCODER, True),
            # A head with one output, whatever the class is called.
            (saved_as("BertModel"), make_weights(classifier__weight=[1, 3]), True),
        ],
    )
    def test_models_with_one_score_for_a_pair_are_rerankers_and_most_say_so(
        self, tmp_path: Path, config: dict[str, Any], files: dict[str, object], declares: bool
    ) -> None:
        made = make_checkpoint(tmp_path, files, **config)
        made.require_usable()
        assert made.declares_reranker is declares

    @pytest.mark.parametrize(
        ("config", "files", "cause"),
        [
            ({"id2label": {"0": "no", "1": "yes"}}, {}, "is a classifier with 2 labels (no, yes), not a rer"),
            (saved_as("BertModel"), {}, "is an embedding model (BertModel)"),
            (
                saved_as("BertModel"),
                make_weights(embeddings__token_type_embeddings__weight=[1, 3]),
                "is an embedding model (BertModel)",
            ),
            (
                saved_as("JinaVLForRanking", AutoModel="modeling.JinaVLForRanking"),
                make_weights(score__2__weight=[1, 3]),
                "is a JinaVLForRanking, which cannot score pairs",
            ),
        ],
    )
    def test_other_models_are_refused_by_what_they_are(
        self, tmp_path: Path, config: dict[str, Any], files: dict[str, object], cause: str
    ) -> None:
        made = make_checkpoint(tmp_path, files, **config)
        fault = made.find_fault()
        assert fault is not None
        assert fault.cause.startswith(cause)
        assert not fault.by_fetching
        with pytest.raises(UnavailableError, match=r"^some/model is "):
            made.require_usable()


class TestWhatItsFilesSay:
    def test_code_that_would_run_is_listed_piece_by_piece(self, tmp_path: Path) -> None:
        auto_map = {
            "AutoConfig": "configuration_x.XConfig",
            "AutoModelForSequenceClassification": "owner/code--modeling.XForClassification",
        }
        files: dict[str, object] = {
            "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}},
            "modules.json": [
                {"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "1_Odd", "type": "custom_st.Odd"},
            ],
            "config_sentence_transformers.json": {"activation_fn": "mine.Squash"},
        }
        assert make_checkpoint(tmp_path, files, auto_map=auto_map).code == [
            "configuration_x.XConfig (AutoConfig)",
            "owner/code--modeling.XForClassification (AutoModelForSequenceClassification)",
            "tokenization_x.XTokenizer (AutoTokenizer)",
            "the module custom_st.Odd",
            "the activation mine.Squash",
        ]
        assert make_checkpoint(tmp_path / "plain").code == []

    @pytest.mark.parametrize(
        ("own", "saved", "library", "expected"),
        [
            (None, None, None, ("sigmoid", None)),
            (None, "torch.nn.Tanh", None, ("torch.nn.Tanh", None)),
            (None, "torch.nn.Tanh", "mine.Squash", ("mine.Squash", "mine.Squash")),
            ("mine.Squash", None, "torch.nn.Identity", ("identity", "mine.Squash")),
        ],
    )
    def test_the_activation_is_the_one_that_sentence_transformers_takes(
        self, tmp_path: Path, own: object, saved: object, library: object, expected: tuple[str, str | None]
    ) -> None:
        made = make_checkpoint(
            tmp_path,
            {"config_sentence_transformers.json": {"activation_fn": library}},
            sbert_ce_default_activation_function=own,
            sentence_transformers={"activation_fn": saved},
        )
        assert (made.activation, made.foreign_activation) == expected

    def test_the_smallest_limit_counts(self, tmp_path: Path) -> None:
        limits: dict[str, object] = {
            "tokenizer_config.json": {"model_max_length": 10**30},
            "sentence_bert_config.json": {"max_seq_length": 96},
        }
        assert make_checkpoint(tmp_path, limits, max_position_embeddings=512).max_length == 96
        assert make_checkpoint(tmp_path / "plain").max_length is None

    @pytest.mark.parametrize(
        ("head", "licence"), [("license: mit", "mit"), ("license:", None), ("license: [", None)]
    )
    def test_a_card_may_name_a_licence(self, tmp_path: Path, head: str, licence: str | None) -> None:
        made = make_checkpoint(tmp_path, {"README.md": f"---\n{head}\n---\n# Mine\n"})
        assert made.licence == licence
