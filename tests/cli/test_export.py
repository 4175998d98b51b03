"""A model exported to a folder: carried anywhere, run without a hub, refused when a bit of it changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import posix_only
from shell import Shell

pytestmark = pytest.mark.slow

QUERY = "what does a keeper write into the log?"
DOCUMENTS = ("A keeper writes the weather into the log.", "Tides rise and fall.", "déjà vu", "☾")
FILES = ["LICENSE", "README.md", "config.json", "manifest.json", "model.bin", "model.xml", "tokenizer.json"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A machine that has a tiny model in its hub's cache, and exported it."""
    from engines.families import make_checkpoint
    from local_hub import put_in_cache

    folder = tmp_path_factory.mktemp("home")
    made = make_checkpoint("xlm-roberta", folder / "made", sentence_transformers=None).folder
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    shell = Shell.below(folder)
    put_in_cache(shell.hub_cache, "me/tiny", {**files, "README.md": b"---\nlicense: mit\n---\n# Tiny\n"})
    done = shell("models", "export", "me/tiny", "exported", "-v")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.endswith(f"Run it with -m {folder / 'exported'}\n")
    return shell


@pytest.fixture
def away(tmp_path: Path, home: Shell) -> Shell:
    """Another machine: no hub, empty caches, and a copy of the exported folder."""
    shutil.copytree(home.folder / "exported", tmp_path / "model")
    return Shell.below(tmp_path)


def ranked(shell: Shell, model: str) -> list[dict[str, object]]:
    done = shell("rank", "-m", model, "--details", "--", QUERY, *DOCUMENTS)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_holds_all_that_it_takes_and_says_what_it_is(home: Shell) -> None:
    folder = home.folder / "exported"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == [name for name in FILES if name != "manifest.json"]
    assert manifest["origin"]["name"] == "me/tiny"
    assert "The licence of me/tiny is mit." in (folder / "LICENSE").read_text()


def test_it_gives_the_same_scores_with_no_network_and_no_cache_and_is_left_as_it_is(
    home: Shell, away: Shell
) -> None:
    for path in (away.folder / "model").iterdir():
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in (away.folder / "model").iterdir()}
    here, there = ranked(home, "me/tiny"), ranked(away, "./model")
    assert [(hit["index"], hit["score"]) for hit in there] == [(hit["index"], hit["score"]) for hit in here]
    assert str(there[0]["model"]).startswith("./model@")
    assert "(compiled from me/tiny), openvino " in str(there[0]["model"])
    assert {path: path.stat().st_mtime_ns for path in (away.folder / "model").iterdir()} == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@posix_only
@pytest.mark.parametrize(("name", "damage"), [("manifest.json", flip), ("model.bin", replace_by_device)])
def test_a_damaged_file_in_it_is_refused(away: Shell, name: str, damage: Callable[[Path], None]) -> None:
    path = away.folder / "model" / name
    damage(path)
    done = away("rank", "-m", "./model", QUERY, *DOCUMENTS)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"error: The compiled model in {path.parent} is damaged: it is not as it was exported.\n"
        "       Copy it here again, or export it again: `ce-rerank models export`.\n"
    )


@pytest.mark.parametrize(
    ("folder", "code", "error"),
    [
        ("exported", 2, "error: exported exists and is not empty."),
        ("file/exported", 4, "file/exported.unfinished: Not a directory."),
    ],
)
def test_it_is_written_only_to_a_new_folder(home: Shell, folder: str, code: int, error: str) -> None:
    (home.folder / "file").touch()
    done = home("models", "export", "me/tiny", folder)
    assert done.returncode == code
    assert done.stderr.splitlines()[0].endswith(error)


def test_it_is_run_by_nothing_else(away: Shell) -> None:
    done = away("rank", "-m", "./model", "--engine", "torch", QUERY, *DOCUMENTS)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ./model is a compiled model, which the CPU runs by openvino, not ")


def test_what_cannot_be_compiled_is_refused_with_the_way_out(home: Shell) -> None:
    from engines.families import make_uncompilable

    make_uncompilable(home.folder / "tanh")
    done = home("models", "export", "./tanh", "other")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "error: ./tanh cannot be exported: it is run by torch, since its activation is "
        "torch.nn.modules.activation.Tanh.\n"
        f"       Copy its checkpoint instead, and give -m the copy: {home.folder / 'tanh'}\n"
    )
    assert not (home.folder / "other").exists()
