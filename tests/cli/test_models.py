"""`ce-rerank models`, by the command itself, with a hub on loopback and caches of the test's own."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from local_hub import CROSS_ENCODER_FILES, LocalHub, put_in_cache
from shell import Shell
from waiting import wait_until

DEFAULT = "cross-encoder/ms-marco-MiniLM-L-6-v2"
TINY = "me/tiny-reranker"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell.below(tmp_path)


@pytest.fixture
def shell_at(hub: LocalHub, shell: Shell) -> Shell:
    """A shell that has the local hub."""
    shell.environment["HF_ENDPOINT"] = hub.url
    return shell


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a tiny BERT with one label, as its author would publish them, duplicates and all."""
    from engines.families import make_checkpoint

    folder = make_checkpoint("bert", tmp_path_factory.mktemp("tiny") / "model").folder
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    card = b"---\nlicense: mit\nlanguage: en\n---\n# Tiny\n"
    return {**files, "README.md": card, "pytorch_model.bin": b"x", "onnx/model.onnx": b"x"}


def table(output: str) -> list[str]:
    return [" ".join(line.split()) for line in output.splitlines()]


class TestList:
    def test_is_what_models_does_by_itself(self, shell: Shell) -> None:
        bare = shell("models")
        assert (bare.returncode, bare.stderr) == (0, "")
        assert bare.stdout == shell("models", "list").stdout
        lines = table(bare.stdout)
        assert lines[0] == "model params lang tokens scores nDCG here size"
        assert "minilm-l6 22.7M en 512 logit 0.508" in lines
        assert "bge-v2-m3 568M many 8,192 sigmoid 0.553" in lines
        assert "mmarco-minilm — 14 — — —" in lines
        assert "qwen3-8b 8B many 32,768 — 0.690*" in lines

    def test_marks_what_is_here(self, shell: Shell) -> None:
        put_in_cache(shell.hub_cache, DEFAULT)
        put_in_cache(shell.hub_cache, "me/reranker")
        put_in_cache(shell.hub_cache, "cross-encoder/ms-marco-electra-base", {"README.md": b"x" * 2_000_000})
        lines = table(shell("models", "--cached").stdout)
        assert lines[1:4] == [
            "minilm-l6 22.7M en 512 logit 0.508 cached 8.2 kB",
            "electra-base — en — logit 0.720* part 2.0 MB",
            "me/reranker — — — sigmoid — cached 8.2 kB",
        ]

    def test_filters_and_sorts(self, shell: Shell) -> None:
        lines = table(shell("models", "bge", "--max-parameters", "0.57B", "--sort", "parameters").stdout)
        assert [line.split()[0] for line in lines[1:4]] == ["bge-base", "bge-large", "bge-v2-m3"]
        assert shell("models", "nosuch").stderr == "warning: None of the known or cached models matches.\n"
        german = shell.json("models", "list", "--language", "de", "--sort", "quality")
        assert [model["alias"] for model in german][:2] == ["qwen3-4b", "mxbai-large-v2"]

    def test_gives_everything_as_json(self, shell: Shell) -> None:
        commit = put_in_cache(shell.hub_cache, DEFAULT)
        (model,) = shell.json("models", "minilm-l6")
        del model["source"]
        assert model.pop("quality")[1] == {
            "figure": 0.743,
            "measure": "nDCG@10, TREC DL 2019",
            "source": "https://sbert.net/docs/cross_encoder/pretrained_models.html",
        }
        folder = shell.hub_cache / "models--cross-encoder--ms-marco-MiniLM-L-6-v2" / "snapshots" / commit
        assert model == {
            "name": DEFAULT, "alias": "minilm-l6", "family": "bert", "kind": "encoder",
            "parameters": 22713601, "languages": ["en"], "context_length": 512, "licence": "Apache-2.0",
            "score_scale": "logit", "needs_remote_code": False, "notes": [],
            "other_names": ["cross-encoder/ms-marco-MiniLM-L6-v2"],
            "in_catalog": True, "cached": True, "compiled": False, "revision": commit, "fault": None,
            "folder": str(folder), "compiled_folders": [], "size_bytes": 8174,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--max-parameters", "big"], "--max-parameters big: that is no number."),
            (["--language", "german"], "'german' is no code of a language."),
        ],
    )
    def test_refuses_what_means_nothing(self, shell: Shell, arguments: list[str], message: str) -> None:
        done = shell("models", "list", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


class TestShow:
    def test_tells_all_that_is_published(self, shell: Shell) -> None:
        shown = table(shell("models", "show", "qwen3-4b").stdout)
        assert shown[:2] == ["name Qwen/Qwen3-Reranker-4B", "alias qwen3-4b"]
        assert {
            "parameters 4,020,000,000", "licence Apache-2.0", "notes over 100 languages",
            "quality 0.6367 nDCG@10, MTEB(eng, v2) retrieval, the top 100 of six embedders reranked "
            "https://huggingface.co/blog/ettin-reranker",
            "needs remote code no", "cached no", "size bytes 0",
        } <= {*shown}  # fmt: skip

    def test_tells_what_the_checkpoint_says_and_what_would_run_it(
        self, shell: Shell, tiny_files: dict[str, bytes]
    ) -> None:
        commit = put_in_cache(shell.hub_cache, TINY, tiny_files)
        shown = shell.json("models", "show", TINY)
        assert (shown["in_catalog"], shown["revision"], shown["licence"]) == (False, commit, "mit")
        assert shown["parameters"] > 5_000
        checkpoint = shown["checkpoint"]
        assert checkpoint["architecture"] == "BertForSequenceClassification"
        assert checkpoint["labels"] == ["LABEL_0"]
        assert (checkpoint["activation"], checkpoint["max_length"]) == ("identity", 96)
        assert ["README.md", 41] in checkpoint["files"]
        assert shown["use"]["engine"] == "openvino"
        assert shown["use"]["reason"].startswith("it can be compiled, and the CPU has ")

    def test_knows_folders(self, shell: Shell, tiny_files: dict[str, bytes]) -> None:
        folder = shell.folder / "mine"
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(tiny_files[name])
        shown = shell.json("models", "show", "./mine")
        assert (shown["name"], shown["cached"], shown["use"]["engine"]) == ("./mine", True, "openvino")
        assert shell("models", "remove", "./mine", "--yes").returncode == 4
        assert folder.is_dir()

    def test_tells_of_code_and_of_pickled_weights(self, shell: Shell) -> None:
        config = json.loads(CROSS_ENCODER_FILES["config.json"]) | {"auto_map": {"AutoModel": "modeling.X"}}
        files = {name: content for name, content in CROSS_ENCODER_FILES.items() if "model" not in name}
        files |= {"config.json": json.dumps(config).encode(), "modeling.py": b"x = 1\n"}
        put_in_cache(shell.hub_cache, "me/odd", files | {"pytorch_model.bin": b"x"})
        shown = table(shell("models", "show", "me/odd").stdout)
        told = {"needs remote code yes", "code modeling.X (AutoModel)", "pickled pytorch_model.bin"}
        assert told | {"files README.md 10"} <= {*shown}
        assert shown[-1] == "reason openvino cannot run it: it brings Python code of its own"


@pytest.mark.slow
class TestPull:
    def test_fetches_what_is_needed_compiles_it_and_checks_it(
        self, hub: LocalHub, shell_at: Shell, tiny_files: dict[str, bytes]
    ) -> None:
        model = hub.add(TINY, tiny_files)
        done = shell_at("models", "pull", TINY, "-v")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines()[-1].startswith(f"Ready: {TINY}@{model.commit[:8]}, openvino ")
        fetched = {request.rpartition("/")[2] for request in hub.requests if request.startswith("GET /me/")}
        assert fetched == {
            "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
        }  # fmt: skip
        (entry,) = shell_at.json("models", "list", TINY)
        assert (entry["compiled"], entry["revision"]) == (True, model.commit)
        assert shell_at("rank", "-m", TINY, "--offline", "query", "one", "two").returncode == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
    def test_cut_off_is_taken_up_file_by_file(self, hub: LocalHub, shell_at: Shell) -> None:
        model = hub.add(TINY, stalled=("tokenizer.json",))
        process = shell_at.start("models", "pull", TINY)
        wait_until(lambda: f"GET /{TINY}/resolve/{model.commit}/tokenizer.json" in hub.requests)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout, stderr) == (130, "", "")
        assert shell_at("rank", "-m", TINY, "--offline", "query", "one").returncode == 4
        assert [model["cached"] for model in shell_at.json("models", "list", TINY)] == []

        model.stalled = ()
        hub.requests.clear()
        shell_at("models", "pull", TINY)  # these weights are none
        fetched = {request.rpartition("/")[2] for request in hub.requests if request.startswith("GET /me/")}
        assert "tokenizer.json" in fetched
        assert "model.safetensors" not in fetched


@pytest.mark.parametrize("command", [("pull", TINY), ("export", TINY, "folder")], ids=["pull", "export"])
def test_options_of_fetching_are_heeded(hub: LocalHub, shell_at: Shell, command: tuple[str, ...]) -> None:
    # The model is refused once it is there, so that nothing need be compiled.
    files = {name: content for name, content in CROSS_ENCODER_FILES.items() if "model" not in name}
    files |= {"config.json": b'{"architectures": ["BertModel"]}', "pytorch_model.bin": b"x"}
    hub.add(TINY, files, revisions=("v1",))
    forbidden = shell_at("models", *command, "--offline")
    assert (forbidden.returncode, hub.requests) == (4, [])
    shell_at.environment["CE_RERANK_ALLOW_PICKLE"] = "1"
    done = shell_at("models", *command, "--revision", "v1")
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {TINY} is an embedding model (BertModel), ")
    assert f"GET /api/models/{TINY}/revision/v1" in hub.requests


class TestRemove:
    def test_says_what_goes_and_removes_it_once_that_is_confirmed(self, shell: Shell) -> None:
        put_in_cache(shell.hub_cache, DEFAULT)
        put_in_cache(shell.hub_cache, "me/reranker")
        done = shell("models", "remove", "minilm-l6")
        assert done.returncode == 2
        assert "error: Nobody is there to confirm it; nothing was removed.\n" in done.stderr
        done = shell("models", "remove", "minilm-l6", "--yes", "-v")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "Removed; 8.2 kB are free again.\n")
        assert [path.name for path in shell.hub_cache.iterdir()] == ["models--me--reranker"]
        done = shell("models", "remove", "minilm-l6", "--yes")
        assert done.returncode == 4
        assert done.stderr.startswith(f"error: Nothing that was fetched or made of {DEFAULT} is on this")
