"""The unfinished file, its state and its bad rows, as a batch writes and continues them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from batch_fakes import GivenLists, NeighbourEngine, made_lists, names
from marks import posix_only

from ce_rerank import InputError, OutputError, Reranker, UsageError
from ce_rerank.batch.job import Job, digest_folder
from ce_rerank.batch.output import SUFFIXES, FileOutput
from ce_rerank.batch.run import Progress, RankedPool, rank_batch
from ce_rerank.formats.output import require_other_file
from ce_rerank.formats.writers import BatchFormat, WriteOptions
from ce_rerank.types import Candidates, Document, Query, Ranking

RERANKER = Reranker.from_engine(NeighbourEngine())
LISTS = [Candidates(Query("red", "none"), []), *made_lists(20, 64)]


class EnoughError(Exception):
    """Ends a run early."""


def write(
    path: Path,
    format: str = "jsonl",
    *,
    resume: bool = False,
    pools: int | None = None,
    settings: dict[str, Any] | None = None,
    items: list[Candidates | InputError] | None = None,
    skip_bad_rows: bool = False,
) -> Progress:
    """Rank into a file; with `pools`, no further than that. Return where that began."""
    reader = GivenLists(LISTS if items is None else items)
    with FileOutput(path, format, resume=resume) as output:
        output.begin(WriteOptions(), settings or {"--top-k": None})
        after = output.progress

        def leave(pool: RankedPool) -> None:
            if pools is not None and pool.progress.pools == after.pools + pools:
                raise EnoughError

        if pools != 0:
            with suppress(EnoughError):
                rank_batch(RERANKER, reader, output, Job(skip_bad_rows=skip_bad_rows), on_pool=leave)
        return after


WITH_BAD_ROWS = [
    *LISTS[:5],
    InputError("hits.jsonl:6: broken.", hint="Mend it."),
    *LISTS[5:],
    InputError("hits.jsonl:23: broken."),
]


def same_as_whole(folder: Path) -> bool:
    """Whether a file and its bad rows, all that is there, are those of a run that was not cut off."""
    assert names(folder) == ["out", "out.errors.jsonl", "whole", "whole.errors.jsonl"]
    return all(
        (folder / f"out{suffix}").read_bytes() == (folder / f"whole{suffix}").read_bytes()
        for suffix in ("", ".errors.jsonl")
    )


@pytest.mark.parametrize("pools", range(1, 4))
@pytest.mark.parametrize("format", get_args(BatchFormat))
def test_a_file_that_was_cut_off_anywhere_and_continued_is_the_same_bytes(
    tmp_path: Path, format: str, pools: int
) -> None:
    job: dict[str, Any] = {"items": WITH_BAD_ROWS, "skip_bad_rows": True}
    write(tmp_path / "whole", format, **job)
    write(tmp_path / "out", format, **job, pools=pools)
    for name in ("out.part", "out.errors.jsonl"):
        with (tmp_path / name).open("a") as stream:
            stream.write('{"torn": "li')
    assert write(tmp_path / "out", format, **job, resume=True).pools == pools
    assert same_as_whole(tmp_path)


def test_what_a_run_has_left_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, pools=2)
    with pytest.raises(UsageError, match=r"cut off after 7 queries\. Give resume"):
        write(path)
    (tmp_path / "out.part.json").unlink()
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"out\.part is there without out\.part\.json"):
            write(path, resume=resume)


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from Linux")
def test_results_are_on_the_disk_before_the_state_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write(tmp_path / "out", pools=2)
    assert synced == ["out.part", "out.part.json.new"] * 3


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, pools=2, settings={"--top-k": None, "the model": "a"})
    before = (tmp_path / "out.part").read_bytes(), (tmp_path / "out.part.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        write(path, resume=True, settings={"--top-k": 5, "--text-field": ["x", "y"]})
    differences = (
        "--top-k was not given, and is 5; the model was a, and is not given; --text-field was not given, "
        "and is x, y"
    )
    assert caught.value.message == f"{path}.part is of another run: {differences}."
    assert ((tmp_path / "out.part").read_bytes(), (tmp_path / "out.part.json").read_bytes()) == before


def test_input_that_was_mended_where_it_was_wrong_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(InputError, match="broken"):
        write(path, items=[*LISTS[:11], InputError("hits.jsonl:12: broken.")])
    # The queries before the bad row are there to be looked at.
    assert len((tmp_path / "out.part").read_text().splitlines()) == 11
    assert write(path, resume=True).tally.queries == 7
    write(tmp_path / "whole")
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
@pytest.mark.parametrize("name", ["out.part", "out.errors.jsonl"])
def test_what_was_written_is_not_continued_when_a_byte_of_it_changed(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out"
    job = {"items": WITH_BAD_ROWS, "skip_bad_rows": True}
    write(path, **job, pools=3)
    damage(tmp_path / name)
    caplog.clear()
    with pytest.raises(OutputError, match=rf"{name} is not as it was written.*Remove"):
        write(path, **job, resume=True)
    assert "--resume" not in caplog.text


@pytest.mark.parametrize("change", [('"pools": 2', '"pools": 3'), ("{", "")])
def test_a_state_that_was_changed_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    path, state = tmp_path / "out", tmp_path / "out.part.json"
    write(path, pools=2)
    state.write_text(state.read_text().replace(*change))
    with pytest.raises(OutputError, match=r"out\.part\.json is damaged.*Remove it and out\.part"):
        write(path, resume=True)


@posix_only
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name",
    ["out.part", "out.part.json", "out.part.json.new", "out.part.lock", "out.part.made", "out.errors.jsonl"],
)
def test_links_that_somebody_planted_are_not_followed(tmp_path: Path, name: str, resume: bool) -> None:
    job: dict[str, Any] = {"format": "parquet", "items": WITH_BAD_ROWS, "skip_bad_rows": True}
    path, precious = tmp_path / name, tmp_path / "precious"
    if resume:
        write(tmp_path / "out", **job, pools=2)
    content = path.read_bytes() if path.exists() else b"mine"
    precious.write_bytes(content)
    path.unlink(missing_ok=True)
    path.symlink_to("precious")
    try:
        write(tmp_path / "out", **job, resume=resume)
    except (UsageError, OutputError, OSError):
        assert not (tmp_path / "out").exists()
    assert precious.read_bytes() == content


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with FileOutput(path), pytest.raises(UsageError, match="another run is writing it"):
        FileOutput(path).__enter__()
    assert names(tmp_path) == []


def test_columns_of_a_table_stay_those_of_the_first_part(tmp_path: Path) -> None:
    lists = [
        Candidates(Query("red", "a"), [Document("one", 1, {"id": 1, "n,\n": 3})] * 200),
        Candidates(Query("red", "b"), [Document("two", 1, {"m": [1]})] * 200),
    ]
    write(tmp_path / "whole", "csv", items=lists)
    write(tmp_path / "out", "csv", items=lists, pools=1)
    write(tmp_path / "out", "csv", items=lists, resume=True)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    header = 'query_id,query,index,score,text,id,"n,\n",input\n'
    assert (tmp_path / "out").read_text().startswith(header)


def test_a_run_that_ends_before_its_first_whole_pool_leaves_nothing(tmp_path: Path) -> None:
    with FileOutput(tmp_path / "out") as output:
        output.begin(WriteOptions(), {})
        output.write(RankedPool([Ranking(Query("red"), ())], [], Progress(), False, None))
    assert names(tmp_path) == []


def test_an_output_that_is_made_again_is_not_complete_until_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path)
    with pytest.raises(SystemExit), FileOutput(path):
        raise SystemExit(143)  # while its model is loaded
    for more in ({}, {"resume": True}):
        write(path, items=LISTS[:9], pools=0, **more)
        assert names(tmp_path) == ["out", "out.part"]
    assert write(path, resume=True, items=LISTS[:9]).items == 0
    write(tmp_path / "other", items=LISTS[:9])
    assert path.read_bytes() == (tmp_path / "other").read_bytes()
    assert names(tmp_path) == ["other", "out"]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_run_killed_while_the_output_gets_its_name_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    job: dict[str, Any] = {"items": WITH_BAD_ROWS, "skip_bad_rows": True}
    path = tmp_path / "out"
    write(tmp_path / "whole", format, **job)
    write(path, format, items=LISTS[:3])
    replace = Path.replace

    def rename_and_be_killed(file: Path, target: Path) -> Path:
        renamed = replace(file, target)
        if target.name == "out":
            raise KeyboardInterrupt
        return renamed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", rename_and_be_killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, format, **job)
    with FileOutput(path, format, resume=True) as output:
        is_complete = output.is_complete
    assert is_complete == (format == "jsonl")
    if not is_complete:
        write(path, format, **job, resume=True)
    assert same_as_whole(tmp_path)


def test_bad_rows_of_an_earlier_run_are_not_left_beside_a_run_that_has_none(tmp_path: Path) -> None:
    write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


@posix_only
@pytest.mark.parametrize("name", ["out", "real", "real.part", "real.errors.jsonl"])
def test_no_input_may_have_a_name_that_is_written_beside_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").symlink_to("real")
    with pytest.raises(UsageError, match="would overwrite it"):
        require_other_file(tmp_path / "out", [str(tmp_path / name)], SUFFIXES)
    require_other_file(tmp_path / "out", [str(tmp_path / "realm")], SUFFIXES)


def test_a_model_is_another_when_one_of_its_files_is(tmp_path: Path) -> None:
    model = ("config.json", "model.safetensors", "1_Dense/model.safetensors", "modeling.py")
    digests = [digest_folder(tmp_path / "no folder")]
    for changed in (*model, "checkpoint-500/optimizer.pt"):
        path = tmp_path / changed
        path.parent.mkdir(exist_ok=True)
        path.write_text(changed)
        digests.append(digest_folder(tmp_path))
    assert digests[0] is None
    assert len(set(digests)) == 1 + len(model)
    assert digests[-1] == digests[-2]  # what is no part of the model does not count
