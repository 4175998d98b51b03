from __future__ import annotations

import io
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from marks import posix_only

from ce_rerank.errors import UsageError
from ce_rerank.files import make_folder_whole
from ce_rerank.formats.output import open_output


def write(path: Path, data: bytes = b"new", failure: type[BaseException] | None = None) -> None:
    with open_output(path, io.BytesIO()) as stream:
        stream.write(data)
        if failure:
            raise failure


def test_a_file_is_there_whole_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_output(path, io.BytesIO()) as stream:
        stream.write(b"one\n")
        stream.flush()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith("out.jsonl.")
        assert part.name.endswith(".part")
        assert part.read_bytes() == b"one\n"
        stream.write(b"two\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(failure):
        write(path, b"new" * 100_000, failure)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert path.read_bytes() == b"old"


@posix_only
def test_a_file_that_is_replaced_leaves_its_mode_and_a_link_to_it_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o604)
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o604)


@posix_only
def test_a_named_pipe_is_written_directly(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join(60)
    assert (received, stat.S_ISFIFO(path.stat().st_mode)) == ([b"new"], True)


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"Make it: mkdir -p {re.escape(str(tmp_path / 'no'))}"):
        write(tmp_path / "no" / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is simulated by /dev/full")
def test_an_error_of_writing_names_the_file_or_the_folder_or_stdout(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(full, b"x" * 200_000)
    stdout = full.open("wb")
    with pytest.raises(OSError, match="No space left on device: 'stdout'"), open_output(None, stdout):
        stdout.write(b"x")
    with pytest.raises(OSError, match="No space left"):
        stdout.close()
    folder = tmp_path / "never-made"
    with pytest.raises(OSError, match="never-made"), make_folder_whole(folder), full.open("wb", 0) as file:
        file.write(b"x")
    assert not folder.exists()
