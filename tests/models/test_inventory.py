"""What is known and what is here, side by side; and taking it off the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_hub import CROSS_ENCODER_FILES, put_in_cache

from ce_rerank.errors import UnavailableError
from ce_rerank.models.catalog import OFFLINE_NAME, read_catalog
from ce_rerank.models.inventory import (
    ModelEntry,
    find_model,
    inspect_model,
    list_models,
    select_models,
    sort_models,
)
from ce_rerank.models.removal import Removal, plan_removal, remove

DEFAULT = "cross-encoder/ms-marco-MiniLM-L-6-v2"
OTHER_SPELLING = "cross-encoder/ms-marco-MiniLM-L6-v2"
SIZE = sum(map(len, CROSS_ENCODER_FILES.values()))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and ours, which does not exist."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def found(name: str) -> ModelEntry:
    entry = find_model(name)
    assert entry is not None
    return entry


class TestList:
    def test_holds_the_catalog_in_its_order(self, hub_cache: Path) -> None:
        entries = list_models()
        assert [entry.known for entry in entries] == list(read_catalog())
        assert not any(entry.size_bytes or entry.is_ready or entry.is_compiled for entry in entries)

    def test_says_what_is_cached_and_how_large_it_is(self, hub_cache: Path) -> None:
        commit = put_in_cache(hub_cache, DEFAULT)
        entry = found("minilm-l6")
        assert entry in list_models()
        assert entry.is_ready
        assert not entry.is_compiled
        assert entry.cached is not None
        assert (entry.cached.revision, entry.cached.name) == (commit, DEFAULT)
        assert entry.size_bytes == SIZE + len(commit) - len(b"{}")  # two files, one blob

    def test_finds_a_model_under_the_hubs_other_name(self, hub_cache: Path) -> None:
        put_in_cache(hub_cache, OTHER_SPELLING)
        (entry,) = select_models(list_models(), cached=True)
        assert entry.name == DEFAULT
        assert entry.cached is not None
        assert entry.cached.name == OTHER_SPELLING

    def test_holds_every_other_cross_encoder_in_the_cache(self, hub_cache: Path) -> None:
        put_in_cache(hub_cache, "me/reranker")
        embedding = {"config.json": b'{"architectures": ["BertModel"]}'}
        put_in_cache(hub_cache, "me/embedding", CROSS_ENCODER_FILES | embedding)
        entries = [entry for entry in list_models() if not entry.in_catalog]
        assert [entry.name for entry in entries] == ["me/reranker"]

    def test_says_of_those_what_their_files_say(self, hub_cache: Path) -> None:
        header = b'{"a": {"shape": [3, 5]}, "b": {"shape": [7]}, "__metadata__": {}}'
        files = {
            "model.safetensors": len(header).to_bytes(8, "little") + header,
            "README.md": b"---\nlicense: mit\nlanguage: [de, en]\n---\n# Mine\n",
            "tokenizer_config.json": b'{"model_max_length": 128}',
        }
        put_in_cache(hub_cache, "me/reranker", CROSS_ENCODER_FILES | files)
        known = inspect_model(found("me/reranker"))[0].known
        assert (known.parameters, known.languages, known.licence) == (22, ("de", "en"), "mit")
        assert (known.context_length, known.score_scale, known.kind) == (128, "sigmoid", "encoder")

    @pytest.mark.parametrize(
        ("head", "licence", "languages"),
        [
            ("license: [mit, apache-2.0]", "mit, apache-2.0", ()),
            ("license: 5\nlanguage: 5", "5", ("5",)),
            ("license:\nlanguage: [de, null]", None, ("de",)),
            ("license: {name: mit}\nlanguage: en", "{'name': 'mit'}", ("en",)),
        ],
    )
    def test_reads_what_people_write_into_cards(
        self, hub_cache: Path, head: str, licence: str | None, languages: tuple[str, ...]
    ) -> None:
        card = {"README.md": f"---\n{head}\n---\n# Mine\n".encode()}
        put_in_cache(hub_cache, "me/reranker", CROSS_ENCODER_FILES | card)
        entry, facts = inspect_model(found("me/reranker"))
        assert facts is not None
        assert (entry.known.licence, facts.languages) == (licence, languages)

    @pytest.mark.parametrize("labels", [["L"], "L"])
    def test_is_not_stopped_by_labels_that_are_no_object(self, hub_cache: Path, labels: object) -> None:
        config = {"architectures": ["BertForSequenceClassification"], "id2label": labels}
        files = {"config.json": json.dumps(config).encode()}
        put_in_cache(hub_cache, "me/odd", CROSS_ENCODER_FILES | files)
        assert not any(entry.is_ready for entry in list_models())
        cached = inspect_model(found("me/odd"))[0].cached
        assert cached is not None
        assert cached.fault is not None
        assert "id2label in its config.json" in cached.fault

    @pytest.mark.parametrize("name", ["tokenizer_config.json", "sentence_bert_config.json"])
    def test_is_not_stopped_by_a_damaged_model(self, hub_cache: Path, name: str) -> None:
        put_in_cache(hub_cache, "me/damaged", CROSS_ENCODER_FILES | {name: b'{"cut": '})
        put_in_cache(hub_cache, "me/reranker")
        damaged, whole = [entry for entry in list_models() if not entry.in_catalog]
        assert (damaged.is_ready, whole.is_ready) == (False, True)
        assert damaged.known.languages == ()
        assert damaged.cached is not None
        assert damaged.cached.fault is not None
        assert damaged.cached.fault.startswith("is damaged: ")
        assert f"{name} cannot be read as a model's configuration: " in damaged.cached.fault

    def test_calls_a_part_of_a_model_a_part(self, hub_cache: Path) -> None:
        commit = put_in_cache(hub_cache, DEFAULT)
        (
            hub_cache / f"models--{DEFAULT.replace('/', '--')}" / "snapshots" / commit / "model.safetensors"
        ).unlink()
        entry = found(DEFAULT)
        assert not entry.is_ready
        assert entry.cached is not None
        assert entry.cached.fault == "has no model.safetensors"

    def test_takes_a_whole_revision_where_the_newest_is_cut_off(self, hub_cache: Path) -> None:
        whole = put_in_cache(hub_cache, DEFAULT, commit="a" * 40)
        put_in_cache(hub_cache, DEFAULT, {"README.md": b"x"}, commit="b" * 40)
        cached = found(DEFAULT).cached
        assert cached is not None
        assert cached.revision == whole

    def test_says_what_is_compiled(self, hub_cache: Path, tmp_path: Path) -> None:
        commit = put_in_cache(hub_cache, DEFAULT)
        put_compiled(tmp_path, DEFAULT, commit)
        entry = found(DEFAULT)
        assert entry.is_compiled
        assert entry.size_bytes > SIZE + len(commit)

    def test_does_not_call_another_revision_compiled(self, hub_cache: Path, tmp_path: Path) -> None:
        put_in_cache(hub_cache, DEFAULT)
        put_compiled(tmp_path, DEFAULT, "c" * 40)
        assert not found(DEFAULT).is_compiled

    def test_reads_a_cache_of_which_files_are_copies_and_not_links(self, hub_cache: Path) -> None:
        put_in_cache(hub_cache, DEFAULT, links=False)
        assert found(DEFAULT).is_ready
        assert found(DEFAULT).size_bytes == SIZE + 40

    def test_knows_nothing_of_what_is_nowhere(self, hub_cache: Path) -> None:
        assert find_model("me/nothing") is None


class TestSelection:
    def test_by_a_text_in_the_name_or_the_alias(self, hub_cache: Path) -> None:
        aliases = [entry.known.alias for entry in select_models(list_models(), text="BGE")]
        assert aliases == ["bge-base", "bge-large", "bge-v2-m3"]
        assert [entry.name for entry in select_models(list_models(), text="minilm-l12")] != []

    def test_by_language_takes_multilingual_models_along(self, hub_cache: Path) -> None:
        chosen = {entry.known.alias for entry in select_models(list_models(), language="DE")}
        assert "mmarco-minilm" in chosen
        assert "bge-v2-m3" in chosen
        assert "minilm-l6" not in chosen

    def test_by_size_leaves_out_what_is_not_known(self, hub_cache: Path) -> None:
        chosen = [entry.known.alias for entry in select_models(list_models(), max_parameters=20_000_000)]
        assert chosen == ["tinybert-l2", "minilm-l2", "minilm-l4", "ettin-17m"]

    @pytest.mark.parametrize(
        ("order", "first"),
        [
            ("catalog", "offline"),
            ("name", "gte-multilingual"),
            ("parameters", "tinybert-l2"),
            ("quality", "qwen3-4b"),
            ("context", "qwen3-0.6b"),
            ("size", "minilm-l6"),
        ],
    )
    def test_sorts(self, hub_cache: Path, order: str, first: str) -> None:
        put_in_cache(hub_cache, DEFAULT)
        entries = sort_models(list_models(), order)  # type: ignore[arg-type]
        assert entries[0].known.alias == first
        assert len(entries) == len(read_catalog())

    def test_sorts_the_unknown_last(self, hub_cache: Path) -> None:
        last = {entry.known.alias for entry in sort_models(list_models(), "parameters")[-2:]}
        assert last == {"electra-base", "mmarco-minilm"}


class TestRemoval:
    def test_takes_the_checkpoint_and_what_was_compiled_of_it(self, hub_cache: Path, tmp_path: Path) -> None:
        commit = put_in_cache(hub_cache, DEFAULT)
        put_in_cache(hub_cache, "me/reranker")
        compiled = put_compiled(tmp_path, DEFAULT, commit)
        other = put_compiled(tmp_path, "me/reranker", commit)
        planned = plan_removal(found("minilm-l6"))
        assert [(removal.what, removal.folder) for removal in planned] == [
            ("checkpoint", hub_cache / "models--cross-encoder--ms-marco-MiniLM-L-6-v2"),
            ("compiled form", compiled),
        ]
        for removal in planned:
            remove(removal)
        assert [path.name for path in hub_cache.iterdir()] == ["models--me--reranker"]
        assert [path.name for path in other.parent.iterdir()] == [other.name]

    def test_takes_the_offline_weights_that_were_made_ready(self, hub_cache: Path, tmp_path: Path) -> None:
        folder = tmp_path / "cache" / "checkpoints" / "ms-marco-MiniLM-L-12-v2-1225ccd6afd0"
        folder.mkdir(parents=True)
        for name, content in CROSS_ENCODER_FILES.items():
            (folder / name).write_bytes(content)
        (removal,) = plan_removal(found(OFFLINE_NAME))
        assert (removal.folder, removal.size_bytes) == (folder, SIZE)
        remove(removal)
        assert not folder.exists()

    def test_takes_a_damaged_model(self, hub_cache: Path) -> None:
        put_in_cache(hub_cache, "me/damaged", CROSS_ENCODER_FILES | {"config.json": b'{"cut": '})
        for removal in plan_removal(found("me/damaged")):
            remove(removal)
        assert list(hub_cache.iterdir()) == []

    def test_of_nothing_is_refused(self, hub_cache: Path) -> None:
        with pytest.raises(
            UnavailableError, match=r"^Nothing of cross-encoder/ms-marco-electra-base is on this"
        ):
            plan_removal(found("electra-base"))

    def test_leaves_a_folder_alone_that_is_a_link(self, hub_cache: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        put_in_cache(elsewhere, DEFAULT)
        link = hub_cache / "models--cross-encoder--ms-marco-MiniLM-L-6-v2"
        link.symlink_to(elsewhere / link.name, target_is_directory=True)
        with pytest.raises(UnavailableError, match=f"^{link} is a link to .*, which is outside the cache"):
            plan_removal(found(DEFAULT))
        assert found(DEFAULT).is_ready

    def test_leaves_alone_what_links_inside_lead_to(self, hub_cache: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "thesis.txt").write_text("x")
        put_in_cache(hub_cache, DEFAULT)
        folder = hub_cache / "models--cross-encoder--ms-marco-MiniLM-L-6-v2"
        (folder / "blobs" / "link").symlink_to(precious, target_is_directory=True)
        (folder / "snapshots" / "link").symlink_to(precious, target_is_directory=True)
        for removal in plan_removal(found(DEFAULT)):
            remove(removal)
        assert not folder.exists()
        assert (precious / "thesis.txt").read_text() == "x"

    def test_works_in_a_cache_that_is_itself_a_link(
        self, tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_in_cache(hub_cache, DEFAULT)
        (tmp_path / "link").symlink_to(hub_cache, target_is_directory=True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "link"))
        for removal in plan_removal(found(DEFAULT)):
            remove(removal)
        assert list(hub_cache.iterdir()) == []

    def test_leaves_alone_what_is_in_no_cache(self, hub_cache: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        with pytest.raises(UnavailableError, match="is in none of the caches, and is left alone"):
            remove(Removal("checkpoint", tmp_path / "precious", 0))
        assert (tmp_path / "precious").is_dir()

    @pytest.mark.parametrize("name", ["..", "../..", "cross-encoder/../..", ".", "/etc", "me/..%2f"])
    def test_cannot_be_talked_out_of_the_cache(self, hub_cache: Path, name: str) -> None:
        (hub_cache / "models--me--x").mkdir()
        assert find_model(name) is None


def put_compiled(tmp_path: Path, name: str, revision: str) -> Path:
    """Write as much of a compiled model as a list of them reads."""
    import hashlib

    folder = tmp_path / "cache" / "compiled" / f"{name.rpartition('/')[2]}-{revision[:12]}"
    folder.mkdir(parents=True)
    origin = {"source": "hub", "name": name, "revision": revision, "fingerprint": "", "content_sha256": ""}
    model = {
        "inputs": [], "max_length": 8, "activation": "identity", "with_type_ids": False,
        "pad_token_id": 0, "pad_type_id": 0, "pad_left": False, "num_labels": 1,
    }  # fmt: skip
    facts = {"format": 1, "origin": {**origin, "versions": {}}, "model": model, "golden": [], "files": {}}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**facts, "sha256": digest}))
    (folder / "model.bin").write_bytes(b"x" * 1000)
    return folder
