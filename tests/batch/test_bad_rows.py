"""What is written of rows that were left out, and what becomes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from batch_files import LISTS, begun, names, write
from marks import posix_only

from ce_rerank import InputError, OutputError, UsageError
from ce_rerank.batch.partial import PartialFile
from ce_rerank.formats.output import finish_output
from ce_rerank.types import Candidates

WITH_BAD_ROWS = [
    *LISTS[:5],
    InputError("hits.jsonl:6: broken.", hint="Mend it."),
    *LISTS[5:],
    InputError("hits.jsonl:23: broken."),
]


class TestBadRows:
    def test_are_written_with_their_reasons(self, tmp_path: Path) -> None:
        write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True)
        assert names(tmp_path) == ["out", "out.errors.jsonl"]
        rows = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
        assert rows == [
            {"reason": "hits.jsonl:6: broken. Mend it.", "row": "its text"},
            {"reason": "hits.jsonl:23: broken.", "row": "its text"},
        ]

    @pytest.mark.parametrize("windows", [1, 2, 3])
    def test_are_the_same_when_a_run_is_continued(self, tmp_path: Path, windows: int) -> None:
        write(tmp_path / "whole", items=WITH_BAD_ROWS, skip_bad_rows=True)
        write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True, windows=windows)
        with (tmp_path / "out.part.errors.jsonl").open("a") as stream:
            stream.write('{"reason": "tor')
        write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True, resume=True)
        for suffix in ("", ".errors.jsonl"):
            assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()

    def test_of_an_earlier_run_are_not_left_beside_a_run_that_has_none(self, tmp_path: Path) -> None:
        write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True)
        write(tmp_path / "out")
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("skip_bad_rows", [True, False])
    def test_of_an_earlier_run_stay_as_long_as_its_output_does(
        self, tmp_path: Path, skip_bad_rows: bool
    ) -> None:
        path, errors = tmp_path / "out", tmp_path / "out.errors.jsonl"
        write(path, items=WITH_BAD_ROWS, skip_bad_rows=True)
        before = path.read_bytes(), errors.read_bytes()
        items = [InputError("other.jsonl:1: broken."), *LISTS]
        if skip_bad_rows:
            write(path, items=items, skip_bad_rows=True, windows=2)
        else:
            with pytest.raises(InputError, match="broken"):
                write(path, items=[*LISTS[:5], *items])
        assert (path.read_bytes(), errors.read_bytes()) == before
        if not skip_bad_rows:
            (tmp_path / "out.part").unlink()
        write(path, items=items, skip_bad_rows=True, resume=skip_bad_rows)
        assert errors.read_bytes() == b'{"reason": "other.jsonl:1: broken.", "row": "its text"}\n'
        assert names(tmp_path) == ["out", "out.errors.jsonl"]

    @pytest.mark.parametrize("format", ["jsonl", "parquet"])
    @pytest.mark.parametrize(("rows", "renames"), [(WITH_BAD_ROWS, 1), (WITH_BAD_ROWS, 2), (LISTS, 1)])
    def test_of_a_run_killed_after_a_renaming_are_put_in_their_place_by_the_next(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        format: str,
        rows: list[Candidates | InputError],
        renames: int,
    ) -> None:
        whole, path = tmp_path / "whole", tmp_path / "out"
        write(whole, format, items=rows, skip_bad_rows=True)
        earlier = [InputError("earlier.jsonl:1: broken."), *LISTS[:3]]
        write(path, format, items=earlier, skip_bad_rows=True)
        done = []

        def rename_and_be_killed(*arguments: Any) -> None:
            finish_output(*arguments)
            done.append(arguments)
            if len(done) == renames:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("ce_rerank.batch.partial.finish_output", rename_and_be_killed)
            with pytest.raises(KeyboardInterrupt):
                write(path, format, items=rows, skip_bad_rows=True)
        assert (tmp_path / "out.part.json").exists()
        with PartialFile(path, resume=True) as file:
            is_to_be_made_again = file.part_path.exists()
        if is_to_be_made_again:
            write(path, format, items=rows, skip_bad_rows=True, resume=True)
        assert path.read_bytes() == whole.read_bytes()
        if rows is WITH_BAD_ROWS:
            errors = [tmp_path / f"{name}.errors.jsonl" for name in ("out", "whole")]
            assert errors[0].read_bytes() == errors[1].read_bytes()
        assert [name for name in names(tmp_path) if name.startswith("out.")] == (
            ["out.errors.jsonl"] if rows is WITH_BAD_ROWS else []
        )

    def test_are_known_of_a_complete_output(self, tmp_path: Path) -> None:
        for items, has_errors in ((WITH_BAD_ROWS, True), (LISTS, False)):
            write(tmp_path / "out", items=items, skip_bad_rows=True)
            with PartialFile(tmp_path / "out", resume=True) as file:
                assert (file.is_complete, file.has_errors) == (True, has_errors)
        write(tmp_path / "out", items=WITH_BAD_ROWS, skip_bad_rows=True)
        with PartialFile(tmp_path / "out") as file:
            assert (file.is_complete, file.has_errors) == (False, False)

    def test_that_are_lost_are_not_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "out"
        write(path, items=WITH_BAD_ROWS, skip_bad_rows=True, windows=3)
        (tmp_path / "out.part.errors.jsonl").unlink()
        with pytest.raises(UsageError) as caught:
            write(path, items=WITH_BAD_ROWS, skip_bad_rows=True, resume=True)
        assert str(caught.value) == (
            f"{path}.part.errors.jsonl is not there, and the unfinished output cannot be continued. "
            "Remove what there is of it to begin anew."
        )

    def test_are_saved_with_the_rest_when_the_folder_is_removed(self, tmp_path: Path) -> None:
        folder, whole = tmp_path / "results", tmp_path / "whole"
        folder.mkdir()
        items = [InputError("hits.jsonl:1: broken."), *LISTS]
        write(whole, items=items, skip_bad_rows=True)
        with PartialFile(folder / "out") as file, pytest.raises(OutputError, match="was removed while"):
            begun(file, lambda: shutil.rmtree(folder), items=items)
        file.part_path.parent.rename(folder)
        write(folder / "out", items=items, skip_bad_rows=True, resume=True)
        for suffix in ("", ".errors.jsonl"):
            assert (folder / f"out{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()

    def test_that_come_when_the_folder_is_removed_already_lose_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "results"
        folder.mkdir()
        with PartialFile(folder / "out") as file, pytest.raises(OutputError, match="was removed while"):
            begun(file, lambda: (shutil.rmtree(folder), file.add_error(b"{}\n")))
        assert len(file.part_path.read_bytes().splitlines()) == 3
        shutil.rmtree(file.part_path.parent)


@posix_only
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_all_that_is_written_beside_an_output_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    (tmp_path / "out").symlink_to("real")
    seen: set[str] = set()
    replace = Path.replace

    def look_and_replace(part: Path, target: Path) -> Path:
        seen.update(names(tmp_path))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", look_and_replace)
    write(tmp_path / "out", format, items=WITH_BAD_ROWS, skip_bad_rows=True)
    seen.update(names(tmp_path))
    named = {path.name for path in PartialFile(tmp_path / "out").side_paths}
    assert named - seen == (set() if format == "parquet" else {"real.part.made"})
    assert seen - named == {"out", "real"}
