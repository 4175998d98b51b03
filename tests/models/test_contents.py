"""What a checkpoint is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ce_rerank.models.contents import find_fault, is_cross_encoder, list_code, list_files, select_files

WHOLE = ["config.json", "model.safetensors", "tokenizer.json"]


def make_folder(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def fault_of(folder: Path, *, allow_pickle: bool = False, with_code: bool = False) -> str | None:
    fault = find_fault(list_files(folder), folder, allow_pickle=allow_pickle, with_code=with_code)
    return fault and fault.cause


def test_of_the_same_weights_in_five_formats_safetensors_are_selected() -> None:
    listed = [
        ".gitattributes",
        "README.md",
        "config.json",
        "flax_model.msgpack",
        "model.safetensors",
        "onnx/config.json",
        "onnx/model.onnx",
        "onnx/model_O4.onnx",
        "openvino/openvino_model.bin",
        "openvino/openvino_model.xml",
        "pytorch_model.bin",
        "special_tokens_map.json",
        "tf_model.h5",
        "tokenizer.json",
        "vocab.txt",
    ]
    assert select_files(listed, with_code=False) == [
        "model.safetensors",
        "README.md",
        "special_tokens_map.json",
        "tokenizer.json",
        "vocab.txt",
        "config.json",
    ]


def test_pickled_weights_are_selected_where_there_are_no_others() -> None:
    listed = ["config.json", "pytorch_model.bin", "training_args.bin", "vocab.txt"]
    assert select_files(listed, with_code=False) == ["pytorch_model.bin", "vocab.txt", "config.json"]


def test_shards_are_selected_with_their_index_and_no_other_index() -> None:
    listed = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-00001-of-00001.bin",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
    ]
    assert select_files(listed, with_code=False) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "config.json",
    ]


def test_the_modules_of_sentence_transformers_come_along() -> None:
    listed = [
        "1_Dense/config.json",
        "1_Dense/model.safetensors",
        "1_Dense/pytorch_model.bin",
        "additional_chat_templates/reranker.jinja",
        "config.json",
        "model.safetensors",
        "modules.json",
        "runs/events.json",
        "tokenizer.json",
    ]
    assert select_files(listed, with_code=False) == [
        "model.safetensors",
        "1_Dense/model.safetensors",
        "1_Dense/config.json",
        "additional_chat_templates/reranker.jinja",
        "modules.json",
        "tokenizer.json",
        "config.json",
    ]


def test_code_is_selected_only_when_asked_for() -> None:
    listed = [*WHOLE, "modeling.py", "custom/layers.py", "evil.pkl"]
    assert select_files(listed, with_code=False) == ["model.safetensors", "tokenizer.json", "config.json"]
    assert select_files(listed, with_code=True) == [
        "model.safetensors",
        "custom/layers.py",
        "modeling.py",
        "tokenizer.json",
        "config.json",
    ]


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (WHOLE, None),
        (["config.json", "model.safetensors", "vocab.txt"], None),
        (["config.json", "model.safetensors", "spiece.model"], None),
        (["model.safetensors", "tokenizer.json"], "has no config.json"),
        (["config.json", "tokenizer.json"], "has no model.safetensors"),
        (["config.json", "model.safetensors"], "has no tokenizer (tokenizer.json or the like)"),
        (
            ["config.json", "pytorch_model.bin", "vocab.txt"],
            "has pickled weights (pytorch_model.bin), which can run any code when they are loaded",
        ),
        (
            [*WHOLE, "1_Dense/config.json", "1_Dense/pytorch_model.bin"],
            "has pickled weights (1_Dense/pytorch_model.bin), which can run any code when they are loaded",
        ),
        ([*WHOLE, "pytorch_model.bin"], None),
        (["model.Q4.gguf"], "has only GGUF weights (model.Q4.gguf), which cannot be loaded here"),
        (
            ["config.json", "onnx/model.onnx", "tokenizer.json"],
            "has only ONNX weights (onnx/model.onnx), which cannot be loaded here",
        ),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter, not a whole model"),
        ([], "has no config.json"),
    ],
)
def test_what_is_missing_is_said_from_the_names_alone(names: list[str], cause: str | None) -> None:
    fault = find_fault(names, None, allow_pickle=False)
    assert (fault and fault.cause) == cause


def test_pickled_weights_can_be_allowed() -> None:
    assert find_fault(["config.json", "pytorch_model.bin", "vocab.txt"], None, allow_pickle=True) is None


def test_an_adapter_names_its_base_model(tmp_path: Path) -> None:
    make_folder(tmp_path, {"adapter_config.json": {"base_model_name_or_path": "owner/base"}})
    fault = find_fault(list_files(tmp_path), tmp_path, allow_pickle=False)
    assert fault is not None
    assert fault.hint == "Merge it into its base model (owner/base) and give the folder of the result."


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    files = {"config.json": {}, "tokenizer.json": {}, "model.safetensors.index.json": index, shards[0]: "x"}
    make_folder(tmp_path, files)
    assert fault_of(tmp_path) == f"is not complete: {shards[1]} is missing"
    make_folder(tmp_path, {shards[1]: "x"})
    assert fault_of(tmp_path) is None


def test_links_that_lead_nowhere_and_empty_files_are_not_there(tmp_path: Path) -> None:
    make_folder(tmp_path, dict.fromkeys(WHOLE, "x"))
    assert fault_of(tmp_path) is None
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("../../blobs/gone")
    assert fault_of(tmp_path) == "has no model.safetensors"
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").touch()
    assert fault_of(tmp_path) == "has no model.safetensors"


def test_a_pointer_of_git_lfs_is_not_taken_for_weights(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    make_folder(tmp_path, {"config.json": {}, "tokenizer.json": {}, "model.safetensors": pointer})
    assert fault_of(tmp_path) == "holds a Git LFS pointer in place of model.safetensors"


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    make_folder(tmp_path, {**dict.fromkeys(WHOLE, "x"), "modules.json": modules})
    assert fault_of(tmp_path) == "is not complete: 1_Dense/ is missing"
    make_folder(tmp_path, {"1_Dense/config.json": {}})
    assert fault_of(tmp_path) is None


def test_code_that_the_configuration_asks_for_must_be_there_once_it_is_trusted(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "other/place--modeling.X"}
    make_folder(tmp_path, {**dict.fromkeys(WHOLE, "x"), "config.json": {"auto_map": auto_map}})
    assert fault_of(tmp_path) is None
    assert fault_of(tmp_path, with_code=True) == "is not complete: configuration_x.py is missing"
    make_folder(tmp_path, {"configuration_x.py": "x"})
    assert fault_of(tmp_path, with_code=True) is None


@pytest.mark.parametrize(
    ("files", "answer"),
    [
        (
            {
                "config.json": {
                    "architectures": ["BertForSequenceClassification"],
                    "id2label": {"0": "LABEL_0"},
                }
            },
            True,
        ),
        (
            {
                "config.json": {
                    "architectures": ["BertForSequenceClassification"],
                    "id2label": {"0": 0, "1": 1},
                }
            },
            False,
        ),
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, False),
        ({"config.json": {"architectures": ["BertModel"], "id2label": {"0": "LABEL_0"}}}, False),
        ({"config.json": {"architectures": ["LlamaForCausalLM"]}}, False),
        (
            {
                "config.json": {"architectures": ["Qwen3ForCausalLM"]},
                "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
            },
            True,
        ),
        ({"config.json": "{broken"}, False),
        ({}, False),
    ],
)
def test_a_cross_encoder_declares_itself(tmp_path: Path, files: dict[str, object], answer: bool) -> None:
    assert is_cross_encoder(make_folder(tmp_path, files)) is answer


def test_code_that_would_run_is_listed_file_by_file(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        {
            "config.json": {
                "auto_map": {
                    "AutoConfig": "configuration_x.XConfig",
                    "AutoModelForSequenceClassification": "owner/code--modeling.XForClassification",
                }
            },
            "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}},
            "modules.json": [
                {"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "1_Odd", "type": "custom_st.Odd"},
            ],
        },
    )
    assert list_code(folder) == [
        "configuration_x.py (AutoConfig: XConfig)",
        "modeling.py of owner/code (AutoModelForSequenceClassification: XForClassification)",
        "tokenization_x.py (AutoTokenizer: XTokenizer)",
        "the module custom_st.Odd",
    ]


def test_a_checkpoint_without_code_lists_none(tmp_path: Path) -> None:
    assert list_code(make_folder(tmp_path, {"config.json": {"model_type": "bert"}})) == []
