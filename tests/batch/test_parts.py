"""Files cut into units of work, and the folder of their parts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import jsonl, shape

from ce_rerank import InputError, UsageError
from ce_rerank.batch.job import Job
from ce_rerank.batch.parts import PartFolder, Report, Unit, find_files
from ce_rerank.batch.parts import cut as cut_files
from ce_rerank.batch.read import RowCandidates, open_reader
from ce_rerank.batch.run import BadRow, Tally
from ce_rerank.formats.source import raise_at_once

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.batch.parts._LEAST_BYTES", 1000)
    monkeypatch.setattr("ce_rerank.batch.parts._MOST_BYTES", 1000)


def nested_rows(queries: int = 40) -> list[dict[str, Any]]:
    return [
        {"query_id": f"q{query}", "query": f"query {query}", "documents": ["a text", "b" * (query % 50)]}
        for query in range(queries)
    ]


def flat_rows(queries: int = 40) -> list[dict[str, Any]]:
    return [
        {"query_id": f"q{query}", "query": f"query {query}", "text": f"text {place}", "n": place}
        for query in range(queries)
        for place in range(1 + 13 * query % 7)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(jsonl(*rows), encoding="utf-8")
    return path


def cut(*paths: Path | str) -> tuple[Job, list[Unit]]:
    job = Job([str(path) for path in paths])
    return job, cut_files(job, find_files(job.inputs))


def whole(path: Path) -> list[Any]:
    return shape(RowCandidates(Job([str(path)])).read(raise_at_once))


def in_units(job: Job, units: list[Unit]) -> list[Any]:
    return [one for unit in units for one in shape(unit.open_reader(job).read(raise_at_once))]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("rows", [nested_rows(), flat_rows()], ids=["nested", "flat"])
def test_files_are_cut_at_the_borders_of_queries(
    rows: list[dict[str, Any]], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name.endswith("l"):
        write(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=11)
    job, units = cut(path)
    assert len(units) > 1
    assert in_units(job, units) == whole(path)


def test_a_query_with_more_rows_than_a_unit_stays_whole(tmp_path: Path) -> None:
    rows = [{"query": "red", "text": f"text {place}"} for place in range(200)]
    path = write(tmp_path / "rows.jsonl", [*rows, {"query": "blue", "text": "text"}])
    job, units = cut(path)
    assert [len(one) for one in (list(unit.open_reader(job).read(raise_at_once)) for unit in units)] == [1, 1]
    assert in_units(job, units) == whole(path)


def test_what_cannot_be_cut_is_one_unit(tmp_path: Path) -> None:
    rows = flat_rows()
    contents = {
        "array.json": json.dumps(rows).encode(),
        "pretty.jsonl": "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
        "rows.jsonl.gz": gzip.compress(jsonl(*rows).encode()),
        "rows.csv": "\n".join(
            ["query_id,query,text", *(f"{row['query_id']},{row['query']},{row['n']}" for row in rows)]
        ).encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        job, units = cut(tmp_path / name)
        assert len(units) == 1
        assert in_units(job, units) == whole(tmp_path / name)


def test_places_in_messages_are_those_in_the_whole_file(tmp_path: Path) -> None:
    rows: list[Any] = nested_rows()
    rows[39] = {"query": 7, "documents": []}
    path = write(tmp_path / "rows.jsonl", rows)
    job, units = cut(path)
    with pytest.raises(InputError) as raised:
        list(units[-1].open_reader(job).read(raise_at_once))
    assert units[-1].with_places(raised.value.message).startswith(f"{path}:40: ")
    table = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"query": ["a"] * 30, "documents": [["x" * 99]] * 29 + [None]}), table, row_group_size=10
    )
    job, units = cut(table)
    with pytest.raises(InputError) as raised:
        list(units[-1].open_reader(job).read(raise_at_once))
    assert units[-1].with_places(raised.value.message).startswith(f"{table}: row 30: ")


def test_folders_globs_and_urls_name_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv", "_SUCCESS.jsonl", ".hidden.jsonl"):
        write(tmp_path / "in" / name, nested_rows(1))

    def names(given: str) -> list[str]:
        return [Path(unit.path).name for unit in find_files([given])]

    assert names(f"{tmp_path}/in") == ["a.jsonl", "b.jsonl", "c.csv"]
    assert names(f"{tmp_path}/in/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(f"file://{tmp_path}/in/c.csv") == ["c.csv"]
    with pytest.raises(InputError, match="no such file"):
        find_files([f"{tmp_path}/in/*.parquet"])
    with pytest.raises(UsageError):
        find_files(["nowhere://bucket/file"])


@pytest.mark.parametrize("name", ["bad.parquet", "folder.jsonl"])
def test_files_that_cannot_be_read_are_bad_input(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" * 500)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=name):
        cut(tmp_path / name)


def finish_one(folder: PartFolder, unit: Unit) -> Report:
    report = Report(Tally(documents=2, queries=1, bad_rows=1), ["a model"], 32)
    with folder.write_whole(f"part-{unit.place}.jsonl") as part:
        part.write(b"{}\n")
    folder.report(unit.place, report, [BadRow("why", "row")])
    return report


def test_a_part_is_there_when_it_is_whole(tmp_path: Path) -> None:
    job, units = cut(write(tmp_path / "rows.jsonl", nested_rows()))
    folder = PartFolder(str(tmp_path / "out"))
    assert folder.begin(job, units, resume=False) is None

    def fail() -> None:
        with folder.write_whole(f"part-{units[1].place}.jsonl") as part:
            part.write(b"{}\n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    report = finish_one(folder, units[0])
    assert folder.reports() == {units[0].place: report}
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "_unfinished", f"errors-{units[0].place}.jsonl", f"part-{units[0].place}.jsonl"
    ]  # fmt: skip


def test_a_folder_is_continued_by_the_same_job_alone(tmp_path: Path) -> None:
    job, units = cut(write(tmp_path / "rows.jsonl", nested_rows()))
    folder = PartFolder(str(tmp_path / "out"))
    folder.begin(job, units, resume=False)
    finish_one(folder, units[0])
    with pytest.raises(UsageError, match="not empty"):
        folder.begin(job, units, resume=False)
    other = Job(job.inputs, model={"precision": "fp32"})
    with pytest.raises(UsageError, match="precision was not given, and is fp32"):
        folder.begin(other, units, resume=True)
    with pytest.raises(UsageError, match=r"the input was \w+, and is \w+"):
        folder.begin(job, units[1:], resume=True)
    assert folder.begin(Job(job.inputs, model={"threads": 2}), units, resume=True) is None
    folder.finish({"queries": 40, "bad_rows": 1, "parts": 1})
    assert folder.begin(job, units, resume=True) == Report(Tally(queries=40, bad_rows=1))
    with pytest.raises(UsageError, match="precision was not given, and is fp32; the input was "):
        folder.begin(other, units[1:], resume=True)
    (tmp_path / "out" / f"part-{units[0].place}.jsonl").unlink()
    with pytest.raises(UsageError, match="lacks parts"):
        folder.begin(job, units, resume=True)


def test_candidates_are_written_once_and_read_as_they_were(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.write_text("1 Q0 b 1 2.5 x\n1 Q0 a 2 1 x\n2 Q0 no 1 1 x\n", encoding="utf-8")
    queries = write(tmp_path / "q.jsonl", [{"_id": "1", "text": "red", "n": 1}, {"_id": 2, "text": "blue"}])
    documents = [{"_id": "a", "title": "T", "text": "one"}, {"_id": "b", "text": "two", "n": 1.5}]
    corpus = write(tmp_path / "corpus.jsonl", documents)
    job = Job(run=str(run), queries=str(queries), corpus=[str(corpus)], skip_bad_rows=True)
    folder = PartFolder(str(tmp_path / "out"))
    folder.begin(job, [], resume=False)
    (unit,) = folder.write_candidates(job)
    errors: list[str] = []
    as_read = list(open_reader(job).read(lambda error, text: errors.append(text)))
    assert list(unit.open_reader(job).read(raise_at_once)) == as_read
    assert folder.reports() == {"candidates": Report(Tally(bad_rows=1))}
    assert json.loads((tmp_path / "out" / "errors-candidates.jsonl").read_text())["row"] == errors[0]
    run.unlink()
    assert folder.write_candidates(job) == [unit]
