"""The partial file and its manifest, as a batch writes them."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import made_lists
from batch_files import LISTS, SETTINGS, SIZES, begun, names, write

from ce_rerank import InputError, OutputError, UsageError
from ce_rerank.batch.partial import PartialFile
from ce_rerank.formats.json import encode_json
from ce_rerank.formats.writers import BATCH_FORMATS
from ce_rerank.types import Candidates, Document, Query


@pytest.mark.parametrize("format", BATCH_FORMATS)
def test_a_file_that_was_cut_off_anywhere_and_continued_is_the_same_bytes(
    tmp_path: Path, format: str
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "out"
    write(whole, format)
    part, manifest = tmp_path / "out.part", tmp_path / "out.part.json"
    for windows in range(4):
        write(path, format, windows=windows)
        for torn in ("", "0", "\n", '{"query_id": "q7", "query": "re'):
            if not part.exists():
                continue
            cut_off = tmp_path / "cut_off"
            shutil.copy(part, tmp_path / "cut_off.part")
            shutil.copy(manifest, tmp_path / "cut_off.part.json")
            with (tmp_path / "cut_off.part").open("a") as stream:
                stream.write(torn)
            after = write(cut_off, format, resume=True)
            assert (after.windows, cut_off.read_bytes()) == (windows, whole.read_bytes())
        part.unlink(missing_ok=True)
        manifest.unlink(missing_ok=True)
    assert names(tmp_path) == ["cut_off", "whole"]


def test_a_complete_file_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with PartialFile(tmp_path / "out", resume=True) as file:
        assert file.is_complete
    assert names(tmp_path) == ["out"]


def test_a_run_killed_between_renaming_and_tidying_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with PartialFile(path) as file:
        begun(file)
        file.commit(file.finished, is_complete=True)
        file.part_path.rename(path)
    assert names(tmp_path) == ["out", "out.part.json"]
    with PartialFile(path, resume=True) as file:
        assert file.is_complete
    assert names(tmp_path) == ["out"]


def test_continuing_what_never_began_begins(tmp_path: Path) -> None:
    assert write(tmp_path / "out", resume=True).items == 0
    assert names(tmp_path) == ["out"]


def test_what_a_run_has_left_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, windows=2)
    with pytest.raises(UsageError) as caught:
        write(path)
    assert str(caught.value) == (
        f"{path}.part is there, of a run that was cut off, with 7 queries done. "
        "Give --resume to go on with it, or remove it to begin anew."
    )
    (tmp_path / "out.part.json").unlink()
    with pytest.raises(UsageError, match=r"out\.part is there, of a run that was cut off\."):
        write(path)
    with pytest.raises(
        UsageError, match=r"out\.part cannot be continued without out\.part\.json\. Remove it"
    ):
        write(path, resume=True)


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from Linux")
def test_results_are_on_the_disk_before_what_vouches_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write(tmp_path / "out", windows=2)
    assert synced == ["out.part.json.new", "out.part", "out.part.json.new", "out.part", "out.part.json.new"]


def test_a_run_that_finished_no_window_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "out", windows=0)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "sizes", "difference"),
    [
        ({"--top-k": 5, "the model": "a"}, SIZES, "--top-k was not given, and is 5"),
        ({"--top-k": None, "the model": "b"}, SIZES, "the model was a, and is b"),
        ({"the model": "b"}, SIZES, "the model was a, and is b"),
        ({"--top-k": 5}, SIZES, "--top-k was not given, and is 5; the model was a, and is not given"),
        ({"the model": "a", "--text-field": ["x", "y"]}, SIZES, "--text-field was not given, and is x, y"),
        ({"the model": "a"}, (1001,), "the input was 1,000 bytes, and is 1,001 bytes"),
        ({"the model": "a"}, (1000, None), "the input was 1,000 bytes, and is 1,000 bytes + a stream"),
    ],
)
def test_another_run_is_not_continued(
    tmp_path: Path, settings: dict[str, Any], sizes: tuple[int | None, ...], difference: str
) -> None:
    path = tmp_path / "out"
    write(path, windows=2, settings={"--top-k": None, "the model": "a"})
    before = (tmp_path / "out.part").read_bytes(), (tmp_path / "out.part.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        write(path, resume=True, settings=settings, sizes=sizes)
    assert str(caught.value) == (
        f"{path}.part is of another run: {difference}. "
        "Run it as it was begun, or remove that file to begin anew."
    )
    assert ((tmp_path / "out.part").read_bytes(), (tmp_path / "out.part.json").read_bytes()) == before


def test_input_of_another_content_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, windows=2)
    with pytest.raises(UsageError, match="The input is not the one that the unfinished output was made from"):
        write(path, resume=True, items=[*made_lists(1, 2), *LISTS[1:]])
    write(path, resume=True)


def test_input_that_was_mended_where_it_was_wrong_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(InputError, match="broken"):
        write(path, items=[*LISTS[:11], InputError("hits.jsonl:12: broken.")])
    # The queries before the bad row are there to be looked at.
    assert len((tmp_path / "out.part").read_text().splitlines()) == 11
    assert write(path, resume=True, sizes=(1234,)).tally.queries == 7
    write(tmp_path / "whole")
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_part_that_is_shorter_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, windows=2)
    (tmp_path / "out.part").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match=r"out\.part is shorter than its manifest says"):
        write(path, resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"finished": 3}', "\0"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out"
    write(path, windows=2)
    (tmp_path / "out.part.json").write_text(text)
    with pytest.raises(UsageError, match=r"out\.part\.json cannot be read, and without it"):
        write(path, resume=True)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with PartialFile(path), pytest.raises(UsageError, match="another run is writing it"), PartialFile(path):
        pass
    assert names(tmp_path) == []


def test_a_symbolic_link_and_a_mode_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    assert names(tmp_path) == ["out", "real"]


def test_where_nothing_can_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"), PartialFile(tmp_path / "no" / "out"):
        pass
    with pytest.raises(UsageError, match="a directory, not a file"), PartialFile(tmp_path):
        pass


def test_a_folder_that_is_removed_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with PartialFile(folder / "out") as file, pytest.raises(OutputError) as caught:
        begun(file, lambda: shutil.rmtree(folder))
    rescued = file.part_path
    try:
        assert str(caught.value) == (
            f"{folder}/out: out.part was removed while it was written. "
            f"What was finished is now {rescued}; move it and all beside it back to go on."
        )
        folder.mkdir()
        shutil.move(rescued, folder)
        shutil.move(rescued.with_name("out.part.json"), folder)
    finally:
        shutil.rmtree(rescued.parent)
    with PartialFile(folder / "out", resume=True) as file:
        assert file.begin(SETTINGS, SIZES).tally.queries == 3
        assert len((folder / "out.part").read_text().splitlines()) == 3


def test_a_folder_that_is_moved_takes_what_is_finished_along(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with PartialFile(folder / "out") as file, pytest.raises(OutputError, match=r"out: cannot be written"):
        begun(file, lambda: folder.rename(tmp_path / "elsewhere"))
    with PartialFile(tmp_path / "elsewhere" / "out", resume=True) as file:
        assert file.begin(SETTINGS, SIZES).tally.queries == 3


def test_columns_of_a_table_stay_those_of_the_first_part(tmp_path: Path) -> None:
    lists = [
        Candidates(Query("red", "a"), [Document("one", 1, {"id": 1, "n,\n": 3})] * 200),
        Candidates(Query("red", "b"), [Document("two", 1, {"m": [1]})] * 200),
    ]
    write(tmp_path / "whole", "csv", items=lists)
    write(tmp_path / "out", "csv", items=lists, windows=1)
    write(tmp_path / "out", "csv", items=lists, resume=True)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert (tmp_path / "out").read_text().startswith('query_id,query,index,score,text,id,"n,\n",input\n')


def test_an_output_that_is_to_be_made_anew_is_not_complete_until_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path)
    for more in ({"windows": 0}, {"windows": 0, "resume": True}):
        write(path, items=LISTS[:9], **more)
        assert names(tmp_path) == ["out", "out.part.json"]
    assert write(path, resume=True, items=LISTS[:9]).items == 0
    write(tmp_path / "other", items=LISTS[:9])
    assert path.read_bytes() == (tmp_path / "other").read_bytes()
    assert names(tmp_path) == ["other", "out"]


def test_a_run_that_ends_while_its_model_is_loaded_does_not_leave_what_was_there_as_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    write(path)
    with pytest.raises(SystemExit), PartialFile(path):
        raise SystemExit(143)
    with PartialFile(path, resume=True) as file:
        assert not file.is_complete


def test_names_that_a_table_cannot_hold_are_the_same_when_it_is_continued(tmp_path: Path) -> None:
    lists = [Candidates(Query("red", name), [Document("one", 1, {"a\0b": 3})] * 200) for name in "ab"]
    write(tmp_path / "whole", "csv", items=lists)
    write(tmp_path / "out", "csv", items=lists, windows=1)
    write(tmp_path / "out", "csv", items=lists, resume=True)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert (tmp_path / "out").read_text().startswith("query_id,query,index,score,text,id,a\ufffdb,input\n")


def test_a_field_as_deep_as_one_may_be_fits_into_a_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    write(
        tmp_path / "out",
        "parquet",
        items=[Candidates(Query("red"), [Document("one", 1, {"index": deep})])],
    )
    (held,) = parquet.read_table(tmp_path / "out").column("input").to_pylist()
    assert held == encode_json({"index": deep})
