from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def notes(samples: Path) -> list[dict[str, Any]]:
    return read_lines(samples / "notes.jsonl")


def test_every_form_of_the_notes_holds_the_same_notes(samples: Path, notes: list[dict[str, Any]]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(samples / "notes.parquet").to_pylist() == notes
    as_text = [{name: str(value) for name, value in note.items()} for note in notes]
    for name, delimiter in (("notes.csv", ","), ("notes.tsv", "\t")):
        with (samples / name).open(encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file, delimiter=delimiter)) == as_text
    assert (samples / "notes.txt").read_text(encoding="utf-8").splitlines() == [
        note["text"] for note in notes
    ]
    assert (
        gzip.decompress((samples / "notes.jsonl.gz").read_bytes()) == (samples / "notes.jsonl").read_bytes()
    )
    some = json.loads((samples / "notes.json").read_text(encoding="utf-8"))
    assert some == [note for note in notes if note["subject"] in ("astronomy", "computing")]


def test_run_and_judgements_name_notes_and_queries_that_are_there(
    samples: Path, notes: list[dict[str, Any]]
) -> None:
    ids = {note["id"] for note in notes}
    queries = {query["_id"] for query in read_lines(samples / "queries.jsonl")}
    run = [line.split() for line in (samples / "run.trec").read_text().splitlines()]
    judged = [line.split() for line in (samples / "qrels.tsv").read_text().splitlines()[1:]]
    assert len(ids) == len(notes)
    assert {row[0] for row in run} == {row[0] for row in judged} == queries
    assert {row[2] for row in run} | {row[1] for row in judged} <= ids


def test_the_long_document_answers_beyond_what_a_model_reads(samples: Path) -> None:
    story = read_lines(samples / "long.jsonl")[0]["text"].split()
    assert story.index("caulk") > 512
