from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fakes import CountingEngine
from typer.testing import CliRunner, Result

from ce_rerank.cli.app import app
from ce_rerank.cli.rank import SourceOptions, _read_query

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counting_engine: CountingEngine) -> Run:
    """Run a command line with a model whose logit is the sum of a document's number words."""
    folder = tmp_path / "counting"
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setattr("ce_rerank.engines.load_engine", lambda checkpoint, options: counting_engine)
    monkeypatch.setenv("CE_RERANK_MODEL", str(folder))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | bytes = b"") -> Result:
        result = CliRunner().invoke(app, list(arguments), input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_documents_as_arguments_come_out_as_jsonl_best_first(run: Run) -> None:
    result = run("red", "one", "nine", "two")
    assert result.stdout == (
        '{"index": 1, "score": 4.5, "text": "nine"}\n'
        '{"index": 2, "score": 1.0, "text": "two"}\n'
        '{"index": 0, "score": 0.5, "text": "one"}\n'
    )
    assert (result.stderr, result.exit_code) == ("", 0)
    assert run("rank", "red", "one", "nine", "two").stdout == result.stdout


def test_arguments_come_before_files_and_files_in_their_order(run: Run) -> None:
    assert [row["text"] for row in rows(run("red", stdin="one\n\ntwo\r\n"))] == ["two", "one"]
    Path("b.txt").write_text("two\n", encoding="utf-8")
    Path("a.jsonl").write_text('{"text": "three"}\n', encoding="utf-8")
    result = run("red", "one", "-f", "b.txt", "-f", "-", "-f", "a.jsonl", stdin="four\n")
    assert {row["text"]: row["index"] for row in rows(result)} == {"one": 0, "two": 1, "four": 2, "three": 3}


def test_top_k_and_min_score_select_on_any_scale(run: Run) -> None:
    options = ["-k", "3", "--min-score", "2", "--scores", "logit"]
    found = rows(run("red", "one", "two", "three", "four", *options))
    assert [(row["text"], row["score"]) for row in found] == [("four", 4.0), ("three", 3.0), ("two", 2.0)]


def test_details_and_no_text(run: Run) -> None:
    row = '{"text": "one two", "id": 1, "lang": "en", "score": 7}'
    (found,) = rows(run("red", "--details", "--no-text", stdin=row))
    assert found == {
        "index": 0, "score": 1.5, "id": 1, "rank": 1, "tokens": 6, "truncated": False,
        "model": "counting, counting fp32 on cpu", "lang": "en", "input": {"score": 7},
    }  # fmt: skip


def test_a_trec_run_is_of_documents_with_ids(run: Run) -> None:
    rows = '{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'
    assert run("red", "--to", "trec", stdin=rows).stdout == "1 Q0 b 1 1.0 ce-rerank\n1 Q0 a 2 0.5 ce-rerank\n"
    result = run("red", "--to", "trec", stdin='{"id": "a", "text": "one"}\n{"key": "b", "text": "two"}\n')
    assert (result.stdout, result.exit_code) == ("", 3)
    assert result.stderr.startswith("error: stdin:2: no id")
    assert "--id-field" in result.stderr
    lines = '{"id": "a", "text": "one"}\n{"id": "b c", "text": "two"}\n{"id": "d", "text": "three"}\n'
    result = run("red", "--to", "trec", "--on-error", "skip", stdin=lines)
    assert ([line.split()[2] for line in result.stdout.splitlines()], result.exit_code) == (["d", "a"], 5)


def test_output_goes_to_a_file_in_the_format_of_its_suffix(run: Run) -> None:
    result = run("red", "one", "two", "-o", "out.csv")
    assert (result.stdout, result.exit_code) == ("", 0)
    assert Path("out.csv").read_text(encoding="utf-8") == "index,score,text\n1,1.0,two\n0,0.5,one\n"


@pytest.mark.parametrize("arguments", [("red", "-f", "./notes"), ("--query-file", "notes", "one")])
def test_what_is_read_is_not_written_over(run: Run, arguments: tuple[str, ...]) -> None:
    Path("notes").write_text("one\ntwo red\n", encoding="utf-8")
    result = run(*arguments, "-o", "notes")
    assert (result.exit_code, "notes is input, and writing notes would overwrite it." in result.stderr) == (
        2, True
    )  # fmt: skip
    assert Path("notes").read_text(encoding="utf-8") == "one\ntwo red\n"


def test_an_impossible_output_is_refused_before_the_work(run: Run, counting_engine: CountingEngine) -> None:
    without_text = run("red", "one", "two", "--to", "text", "--no-text")
    nowhere = run("red", "one", "two", "--to", "csv", "-o", "no/such/folder")
    assert "--to text writes the texts, which --no-text leaves out." in without_text.stderr
    assert "there is no folder" in nowhere.stderr
    assert (without_text.exit_code, nowhere.exit_code, counting_engine.batch_shapes) == (2, 2, [])


def test_the_query_may_come_from_an_option_or_a_file(run: Run) -> None:
    Path("query.txt").write_text("bench\n", encoding="utf-8")
    for source in (("-q", "bench"), ("--query-file", "query.txt")):
        assert [row["text"] for row in rows(run(*source, "-k", "2", "batch", "one"))] == ["one", "batch"]


def test_cut_and_blank_documents_are_said_on_stderr_unless_quiet(run: Run) -> None:
    documents = ["one " * 40, "", "two", " "]
    cut, blank = run("red", *documents).stderr.splitlines()
    assert cut.startswith("warning: 1 of 4 documents were cut at 32 tokens")
    assert blank.startswith("warning: 2 of 4 documents have no letter, digit or symbol")
    assert run("red", *documents, "--quiet").stderr == ""


@pytest.mark.parametrize(("content", "format", "written"), [("", "jsonl", ""), ("[]", "json", "[]\n")])
def test_a_source_without_documents_is_warned_of_and_nothing_is_ranked(
    run: Run, counting_engine: CountingEngine, content: str, format: str, written: str
) -> None:
    result = run("red", "--to", format, stdin=content)
    assert (result.exit_code, result.stdout, counting_engine.batch_shapes) == (0, written, [])
    assert result.stderr == "warning: stdin: no documents in it.\n"


def test_where_min_score_leaves_nothing_the_best_score_is_said(run: Run) -> None:
    result = run("red", "one", "two", "--min-score", "9", "--scores", "logit")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "warning: None of 2 documents scores 9 or more; the best scores 2 (--scores logit).\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="a pipe there cannot be looked at")
def test_a_pipe_with_data_that_nobody_reads_is_warned_of_and_left_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"two\n")
    with os.fdopen(reader) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert app(["what", "one"], standalone_mode=False) == 0
        assert capsys.readouterr().err == (
            "warning: stdin has data that is not read. Give -f - to rank it too.\n"
        )
        os.close(writer)
        assert app(["what", "one", "-f", "-"], standalone_mode=False) == 0
        captured = capsys.readouterr()
        assert (len(captured.out.splitlines()), captured.err) == (2, "")
        assert app(["what", "one"], standalone_mode=False) == 0
        assert capsys.readouterr().err == ""


def test_a_dash_as_output_is_stdout(run: Run) -> None:
    for name in ("-", "/dev/stdout"):
        assert run("red", "one", "-o", name).stdout == run("red", "one").stdout
    assert not Path("-").exists()


def test_a_query_that_is_nearly_a_command_is_a_query_with_a_warning(run: Run) -> None:
    for query in ("bacth", "bench2", "evalate", "model"):
        result = run(query, "one")
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
        assert result.stderr.startswith(f"warning: {query} is taken for a query; the command is called ")
    assert run("-q", "bacth", "one").stderr == ""
    assert [run(query, "one").stderr for query in ("rain", "service", "evaluating")] == ["", "", ""]


def test_arguments_that_are_names_of_files_are_ranked_as_texts_and_warned_of(run: Run) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        Path(name).write_text("one\n", encoding="utf-8")
    result = run("red", "-f", *("a.txt", "b.txt", "c.txt"))
    assert sorted(row["text"] for row in rows(result)) == ["b.txt", "c.txt", "one"]
    warning = "warning: b.txt is a file, and its name is ranked as a text. Give -f before each file."
    assert warning in result.stderr.splitlines()
    assert "warning: . is a folder, and its name is ranked as a text." in run("red", ".", "one").stderr
    assert "The query is a.txt" in run("a.txt", "b.txt", "--whole-files").stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("x"), 1, "error: KeyError: 'x'\n       This is a fault of ce-rerank."),
        (MemoryError(), 4, "error: There is not enough memory.\n"),
        (OSError(28, "No space", "a.txt"), 4, "error: a.txt: No space.\n       Make room, or name"),
        (IsADirectoryError(21, "It is a folder", "a"), 4, "error: a: It is a folder.\n       Name another"),
    ],
)
def test_an_error_that_is_not_ours_has_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    monkeypatch.setattr("ce_rerank.cli.rank.read_whole_text", Mock(side_effect=error))
    result = run("--query-file", "q.txt", "one")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(message)
    assert "Traceback (most recent call last)" in run("--query-file", "q.txt", "one", "--debug").stderr


@pytest.mark.parametrize(
    ("data", "query"), [(b"why?\n", "why?"), (b"a\nb\r\n", "a\nb"), (b" x \n\n", " x \n")]
)
def test_a_query_file_loses_one_line_end(tmp_path: Path, data: bytes, query: str) -> None:
    path = tmp_path / "query.txt"
    path.write_bytes(data)
    assert _read_query([], SourceOptions(query_file=str(path))).text == query


CSV = b"id,text\n1,one\n2,three,four\n3,two\n"


def test_rows_that_cannot_be_read_are_left_out_as_asked(run: Run) -> None:
    result = run("red", "--on-error", "skip", stdin=CSV)
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(hit["index"], hit["text"]) for hit in hits] == [(2, "two"), (0, "one")]
    assert result.exit_code == 5
    assert "Rows or files left out: 1. The first: stdin:3: 3 fields, not 2" in result.stderr
    assert run("red", stdin=CSV).exit_code == 3
    result = run("red", "one", "-f", "missing.txt", "--on-error", "skip")
    assert (json.loads(result.stdout)["text"], result.exit_code) == ("one", 5)


def test_what_bm25_leaves_out_is_counted(run: Run) -> None:
    pytest.importorskip("bm25s", reason="needs ce-rerank[bm25]")
    result = run("red", "red one", "two", "three", "--bm25", "9", "-v")
    assert "BM25 left out 2 of 3 documents." in result.stderr


def test_a_table_has_the_columns_of_a_first_stage_after_our_own(run: Run) -> None:
    pytest.importorskip("bm25s", reason="needs ce-rerank[bm25]")
    options = ("--bm25", "2", "--blend", "0.5", "--details", "--to", "csv")
    header, best, _ = run("red", "red one", "red two", *options).stdout.splitlines()
    assert header == "index,score,text,rank,tokens,truncated,model,model_score,first_score,bm25"
    assert best.startswith("1,0.5,red two,1,")


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_the_names_of_files_can_be_read(run: Run, end: str) -> None:
    for name in ("one", "two"):
        Path(name).write_text(f"{name}\n", encoding="utf-8")
    found = rows(run("red", "--files-from", "-", "--whole-files", stdin=f"one{end}two{end}"))
    assert [(row["id"], row["text"]) for row in found] == [("two", "two\n"), ("one", "one\n")]
    result = run("red", "--files-from", "-", "--whole-files")
    assert (result.stdout, result.exit_code, "--files-from - names no files" in result.stderr) == (
        "",
        0,
        True,
    )


def test_a_folder_of_whole_files_is_walked(run: Run) -> None:
    Path("notes/deeper").mkdir(parents=True)
    Path("notes/one.md").write_text("one\n", encoding="utf-8")
    Path("notes/deeper/two.md").write_text("two\n", encoding="utf-8")
    Path("notes/latin").write_bytes(b"na\xefve")
    Path("notes/image").write_bytes(b"\0")
    result = run("red", "-f", "notes", "--whole-files", "--on-error", "skip")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [
        str(Path("notes/deeper/two.md")), str(Path("notes/one.md")),
    ]  # fmt: skip
    assert result.exit_code == 5
    assert "1 hidden, binary or special files" in " ".join(result.stderr.split())
    assert run("red", "-f", "notes", "--whole-files").exit_code == 3


@pytest.mark.parametrize(
    ("name", "data", "options", "ranking"),
    [
        ("h.json", '[{"id": 1, "text": "one"},\n{"id": 2, "text": "two"}]', [], [(2, "two"), (1, "one")]),
        ("h.jsonl", '{"a": "one", "_id": {"b": 5}}', ["--text-field", "a", "--id-field", "_id.b"],
         [(5, "one")]),
        ("h.csv", 'sep=;\r\nid;text\r\n1;one\r\n2;"two; three"\r\n', [], [("2", "two; three"), ("1", "one")]),
        ("h.csv", "1|one\n2|two\n", ["--columns", "id,text", "--delimiter", "|"],
         [("2", "two"), ("1", "one")]),
    ],
)  # fmt: skip
def test_input_is_ranked_as_people_have_it(
    run: Run, name: str, data: str, options: list[str], ranking: list[tuple[Any, str]]
) -> None:
    Path(name).write_bytes(data.encode("utf-16"))
    found = rows(run("red", "-f", name, *options))
    assert [(row["id"], row.get("text", row.get("a"))) for row in found] == ranking
