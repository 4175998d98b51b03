from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from marks import posix_only

from ce_rerank.errors import OutputError, UsageError
from ce_rerank.formats.output import OutputFile, open_output, tell_failures


def write(path: Path, data: bytes = b"new", failure: type[BaseException] | None = None) -> None:
    with open_output(path) as stream:
        stream.write(data)
        if failure:
            raise failure


def test_a_file_is_there_whole_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_output(path) as stream:
        stream.write(b"one\n")
        stream.flush()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith("out.jsonl.")
        assert part.name.endswith(".part")
        assert part.read_bytes() == b"one\n"
        stream.write(b"two\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
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


@posix_only
def test_what_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    missing = tmp_path / "no"
    for path, message in {
        missing / "out": f"there is no folder {missing} to write to. Make it: mkdir -p {missing}",
        tmp_path: "cannot be written (Is a directory). Name another place.",
    }.items():
        with pytest.raises(UsageError) as caught:
            write(path)
        assert str(caught.value) == f"{path}: {message}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is simulated by /dev/full")
def test_a_full_disk_is_an_output_error_that_names_the_file() -> None:
    path = Path("/dev/full")
    with pytest.raises(OutputError) as caught, open_output(path) as stream:
        stream.write(b"x" * 200_000)
    assert str(caught.value) == "/dev/full: cannot be written (No space left on device)."


@pytest.fixture
def little_room() -> Iterator[None]:
    """Let no file grow beyond 100,000 bytes, as on a disk that fills up."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("little_room")
def test_a_disk_that_fills_up_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OutputError) as caught, open_output(path) as stream:
        stream.write(b"x" * 180_000)
    assert str(caught.value) == f"{path}: cannot be written (File too large)."
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_an_unbuffered_stream_writes_all_that_a_full_pipe_takes_in_parts() -> None:
    reading, writing = os.pipe()
    received: list[bytes] = []

    def read_slowly() -> None:
        with os.fdopen(reading, "rb", 0) as pipe:
            while data := pipe.read(1000):
                received.append(data)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with OutputFile(Path("/dev/stdout"), writing, "wb") as raw:
        assert raw.write(b"x" * 300_000) == 300_000
    reader.join(60)
    assert len(b"".join(received)) == 300_000


@posix_only
def test_a_pipe_that_its_reader_closed_stays_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with OutputFile(Path("/dev/stdout"), writing, "wb") as raw, pytest.raises(BrokenPipeError):
        raw.write(b"x")


def test_a_standard_stream_is_named_when_it_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("", encoding="utf-8")
    with path.open(encoding="ascii", errors="replace") as read_only:
        stream = tell_failures(read_only, "stdout")
        assert (stream.fileno(), stream.encoding, stream.errors) == (read_only.fileno(), "ascii", "replace")
        stream.write("x")
        with pytest.raises(OutputError, match=r"^stdout: cannot be written \(Bad file descriptor\)\.$"):
            stream.flush()
        with pytest.raises(OutputError):
            stream.close()
