"""What is known of models and what is here: the catalog, the hub's cache, the offline weights, folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_hub import CROSS_ENCODER_FILES, put_in_cache, write_checkpoint

from ce_rerank.cli.inventory import find_model, list_models
from ce_rerank.engines.openvino.cache import digest_place
from ce_rerank.errors import UnavailableError
from ce_rerank.models.catalog import DEFAULT_NAME
from ce_rerank.models.hub import remove_cached
from ce_rerank.models.store import find_folder, make_cache_folder


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and ours, which does not exist."""
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def test_a_model_is_found_under_the_hubs_other_name(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "cross-encoder/ms-marco-MiniLM-L6-v2")
    (model,) = [model for model in list_models() if model.ready]
    assert model.known.name == DEFAULT_NAME


def test_it_holds_every_other_cross_encoder_in_the_cache_that_is_whole(hub_cache: Path) -> None:
    embedding = {"config.json": b'{"architectures": ["BertModel"]}'}
    put_in_cache(hub_cache, "me/reranker", {**CROSS_ENCODER_FILES, "README.md": b"---\nlicense: mit\n---\n"})
    put_in_cache(hub_cache, "me/embedding", CROSS_ENCODER_FILES | embedding)
    put_in_cache(hub_cache, "me/broken", CROSS_ENCODER_FILES | {"config.json": b"{"})
    (known,) = [model.known for model in list_models() if not model.in_catalog]
    assert (known.name, known.licence, known.score_scale) == ("me/reranker", "mit", "sigmoid")


def test_a_folder_is_known_and_cannot_be_removed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    model = find_model(str(folder))
    assert model.ready is not None
    assert (model.ready.folder, model.removable) == (folder, {})


def test_a_compiled_form_is_found_by_the_folder_that_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = write_checkpoint(tmp_path / "a" / "exp"), write_checkpoint(tmp_path / "b" / "exp")
    form = make_cache_folder("compiled") / "exp-1"
    form.mkdir()
    found = find_folder(str(folder))
    assert found is not None
    place = digest_place(found)
    origin = {"source": "folder", "name": "exp", "revision": None, "place": place, "versions": {}}
    (form / "manifest.json").write_text(json.dumps({"origin": origin}))
    monkeypatch.chdir(folder.parent)
    for name in ("exp", "./exp", str(folder)):
        assert [one.folder for one in find_model(name).forms] == [form]
    monkeypatch.chdir(other.parent)
    for name in ("exp", "./exp", str(other)):
        assert not find_model(name).forms


def test_what_is_nowhere_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnavailableError) as caught:
        find_model("bge-v2m3")
    assert caught.value.hint == "Did you mean bge-v2-m3?"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_model_is_removed_and_nothing_else(hub_cache: Path, damaged: bool) -> None:
    put_in_cache(hub_cache, DEFAULT_NAME)
    put_in_cache(hub_cache, "me/reranker")  # with the same commit
    folder = hub_cache / "models--cross-encoder--ms-marco-MiniLM-L-6-v2"
    if damaged:
        next((folder / "blobs").iterdir()).unlink()
    precious = hub_cache.parent / "precious"
    precious.mkdir()
    (folder / "snapshots" / "link").symlink_to(precious, target_is_directory=True)
    assert list(find_model("minilm-l6").removable) == [folder]
    remove_cached(folder)
    assert not folder.exists()
    assert find_model("me/reranker").ready
    assert precious.is_dir()
