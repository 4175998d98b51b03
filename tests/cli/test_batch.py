from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import batch_fakes
import pytest
from batch_fakes import FEW_TOKENS, NeighbourEngine, made_lists, make_counting_checkpoint, write_nested
from marks import posix_only
from typer.testing import CliRunner, Result

from ce_rerank import RankOptions
from ce_rerank.batch.job import Job, parse_shard
from ce_rerank.cli.app import app
from ce_rerank.formats.documents import ReadOptions
from ce_rerank.formats.writers import WriteOptions

Run = Callable[..., Result]
COMMAND = [sys.executable, batch_fakes.__file__, "batch"]
FEW = (
    '{"query_id": "a", "query": "red", "lang": "en", '
    '"documents": [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]}\n'
    '{"query_id": "b", "query": "blue", "documents": []}\n'
    '{"query_id": "c", "query": "cat", "documents": [{"id": 3, "text": "nine", "n": 1}]}\n'
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line with a model whose score is half the sum of a document's number words, and a bit."""
    engine = NeighbourEngine()
    monkeypatch.setattr("ce_rerank.engines.load_engine", lambda checkpoint, options: engine)
    monkeypatch.setattr("ce_rerank.reranker.POOL_TOKENS", FEW_TOKENS)
    monkeypatch.setenv("CE_RERANK_MODEL", str(make_counting_checkpoint(tmp_path / "counting")))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | bytes = b"") -> Result:
        result = CliRunner().invoke(app, ["batch", *arguments], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def plain(text: str) -> str:
    """Leave out the last digits of scores, which depend on what is in a batch."""
    return re.sub(r"(\d\.\d)\d*", r"\1", text)


def cut_off(run: Run) -> None:
    """Leave an unfinished output of hits.jsonl: nine queries, and a bad row."""
    write_nested(Path("hits.jsonl"), made_lists(9, 50))
    with Path("hits.jsonl").open("a") as stream:
        stream.write("{\n")
    assert run("hits.jsonl", "-o", "out").exit_code == 3


def test_nested_rows_come_out_nested_with_all_their_fields(run: Run) -> None:
    result = run(stdin=FEW)  # a pipe is input by itself
    assert (result.exit_code, result.stderr) == (0, "")
    assert plain(result.stdout) == (
        '{"query_id": "a", "query": "red", "results": [{"index": 1, "score": 1.0, "text": "two", "id": 2}, '
        '{"index": 0, "score": 0.5, "text": "one", "id": 1}], "lang": "en"}\n'
        '{"query_id": "b", "query": "blue", "results": []}\n'
        '{"query_id": "c", "query": "cat", '
        '"results": [{"index": 0, "score": 4.5, "text": "nine", "id": 3, "n": 1}]}\n'
    )


@pytest.mark.parametrize(
    ("format", "suffix", "expected"),
    [
        ("rows", "", '{"query_id": "a", "query": "red", "index": 1, "score": 1.0, "id": 2, "lang": "en"}\n'),
        ("tsv", ".tsv", "query_id\tquery\tindex\tscore\tid\tlang\tinput\na\tred\t1\t1.0\t2\ten\t\n"),
        ("trec", ".run", "a Q0 2 1 1.0 ce-rerank\n"),
    ],
)
def test_the_format_is_said_by_an_option_or_by_the_name_of_the_output(
    run: Run, format: str, suffix: str, expected: str
) -> None:
    few = ("-", "--no-text", "-k", "1")
    result = run(*few, "--to", format, stdin=FEW)
    assert plain(result.stdout).startswith(expected)
    run(*few, *(() if suffix else ("--to", format)), "-o", f"out{suffix}", stdin=FEW)
    assert Path(f"out{suffix}").read_text() == result.stdout


def test_results_of_one_model_are_input_for_another(run: Run) -> None:
    first = run("-", stdin=FEW).stdout
    rows = [json.loads(line) for line in run("-", stdin=first).stdout.splitlines()]
    assert [(row["query_id"], [hit["text"] for hit in row["results"]]) for row in rows] == [
        ("a", ["two", "one"]), ("b", []), ("c", ["nine"])
    ]  # fmt: skip
    assert rows[0]["lang"] == "en"
    assert rows[0]["results"][1]["input"]["score"] == json.loads(first.splitlines()[0])["results"][1]["score"]


class TestBadRows:
    TEXT = FEW.replace("\n", '\n{"query": "red"}\n', 1)

    def test_are_left_out_counted_and_written_down_when_asked(self, run: Run) -> None:
        result = run("-", "--on-error", "skip", "-o", "out.jsonl", stdin=self.TEXT)
        assert (result.exit_code, result.stdout) == (5, "")
        assert re.fullmatch(
            r"warning: Rows left out: 1; see \S+/out\.jsonl\.errors\.jsonl\.\n", result.stderr
        )
        (row,) = [json.loads(line) for line in Path("out.jsonl.errors.jsonl").read_text().splitlines()]
        assert row["reason"].startswith('stdin:2: no list of "documents" and no "text"')
        assert row["row"] == '{"query": "red"}'
        assert len(Path("out.jsonl").read_text().splitlines()) == 3

    def test_are_said_where_there_is_no_file(self, run: Run) -> None:
        result = run("-", "--on-error", "skip", stdin=self.TEXT)
        assert (result.exit_code, len(result.stdout.splitlines())) == (5, 3)
        assert 'warning: Left out: stdin:2: no list of "documents"' in result.stderr


def test_cut_and_blank_documents_are_summed_up(run: Run) -> None:
    row = {"query": "red", "documents": ["one " * 100, " ", "two"]}
    result = run("-", "-k", "1", stdin=json.dumps(row) + "\n")
    assert result.stderr == (
        "warning: 1 of 3 documents were cut at 32 tokens, and 72% of their text was not read. "
        "Give --long chunk to score them whole.\n"
        "warning: 1 of 3 documents have no letter, digit or symbol: they are not scored, and rank last.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hits", "--run", "r"], "There are INPUT and a run or corpus."),
        (["--run", "r", "--corpus", "c"], "Give --queries FILE and --corpus FILE."),
        (["--corpus", "c"], "Give --run RUN or --bm25 N, not both."),
        (["-", "-"], "stdin is named more than once."),
        (["hits", "--resume"], "--resume goes on with a file."),
        (["hits", "-o", "./hits"], "hits is input, and writing hits would"),
        (["hits", "out.errors.jsonl", "-o", "out"], "out.errors.jsonl is input, and writing"),
        (["hits", "-o", "no/out"], "no/out: there is no folder no to write to."),
        (["hits", "-o", "out.json"], "out.json: .json is not a format that is written here."),
        (["hits", "--to", "trec", "--run-name", "a b"], 'The run name "a b" must be one word.'),
        (["hits", "--shard", "3/2"], '"3/2" is not a shard.'),
        (["hits", "--measure", "P@1"], "--measure needs judgements"),
        (["hits", "--qrels", "q", "--measure", "nDGC@10"], "nDGC@10"),
        (["hits", "--qrels", "q", "-o", os.devnull], "a pipe can be read once"),
        (["--run", "-", "--queries", "q", "--corpus", "c", "--qrels", "q"], "a pipe can be read once"),
        (["hits", "--qrels", "q", "-o", "./q"], "q is input, and writing"),
        (["hits", "--qrels", "q", "--shard", "1/2"], "--qrels measures a whole run"),
        (["hits", "--workers", "2", "-o", "out"], "--ray-address and --workers are about --ray."),
        (["hits", "--ray"], "--ray needs a folder to write to."),
        (["hits", "--ray", "-o", "out.jsonl"], "--ray needs a folder to write to."),
        (["hits", "--ray", "-o", "out", "--qrels", "q"], "--qrels measures one file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run: Run, arguments: list[str], message: str) -> None:
    Path("hits").write_text(FEW)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert sorted(path.name for path in Path().iterdir()) == ["counting", "hits"]


def test_a_run_is_continued_with_nothing_else_that_changes_a_result(tmp_path: Path) -> None:
    info = NeighbourEngine().info
    job = Job(["hits"])
    others = [
        *(replace(job, **change) for change in (
            {"query_field": "q"}, {"documents_field": "d"}, {"shard": parse_shard("1/2")}, {"format": "csv"},
            {"ranking": RankOptions(scores="sigmoid")}, {"ranking": RankOptions(min_score=1)},
            {"reading": ReadOptions(format="csv")}, {"reading": ReadOptions(id_field="i")},
            {"reading": ReadOptions(text_fields=("t",))}, {"reading": ReadOptions(columns=("a", "b"))},
            {"writing": WriteOptions(False)}, {"writing": WriteOptions(details=True)}, {"version": "2"},
        ))
    ]  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"precision": "bf16"}, {"max_length": 31}, {"engine": "x"}, {"device": "cuda"}, {"activation": "x"},
        {"revision": "r"}, {"model": "m"}, {"instruction": "i"},
    ]  # fmt: skip
    settings = [other.settings(info) for other in others]
    settings += [job.settings(replace(info, **change)) for change in changes]
    for other in settings:
        assert sum(other[name] != value for name, value in job.settings(info).items()) == 1


def test_a_run_is_not_continued_with_a_model_that_was_changed(run: Run) -> None:
    cut_off(run)
    assert "is there, of a run that was cut off" in run("hits.jsonl", "-o", "out").stderr
    Path("counting", "tokenizer.json").write_text('{"changed": 1}')
    result = run("hits.jsonl", "-o", "out", "--resume", "-k", "3")
    assert result.exit_code == 2
    assert re.search(
        r"the model's content was \w+, and is \w+; --top-k was not given, and is 3", result.stderr
    )


def test_a_run_is_continued_with_options_that_a_lack_of_memory_asks_for(run: Run) -> None:
    cut_off(run)
    Path("hits.jsonl").write_text(Path("hits.jsonl").read_text()[:-2])
    assert run("hits.jsonl", "-o", "out", "--resume", "--batch-tokens", "9", "--threads", "2").exit_code == 0
    assert len(Path("out").read_text().splitlines()) == 9


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_input_without_a_row_is_no_error(run: Run, format: str) -> None:
    result = run("-", "--to", format)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "warning: stdin: no queries in it.\n")
    for more in ([], ["--resume"]):
        assert run("-", "--to", format, "-o", "out", *more).exit_code == 0


def test_a_complete_output_is_not_made_again(run: Run) -> None:
    command = ("-", "-o", "out", "--on-error", "skip")
    assert run(*command, stdin=FEW + '{"query": 5}\n').exit_code == 5
    result = run(*command, "--resume", stdin=FEW)
    assert result.exit_code == 5
    assert "out is complete: nothing was ranked, and the options were not compared." in result.stderr
    assert "Rows were left out of it; see " in result.stderr


class TestProcess:
    """What only a process shows: pipes, signals, kills, full disks."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CE_RERANK_TEST_SLEEP", "0.002")

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *arguments], **{**pipes, **more})

    def finish(self, *arguments: str) -> bytes:
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate(timeout=300)
        assert (process.returncode, stderr) == (0, b"")
        return stdout

    def kill(self, times: int, *arguments: str) -> None:
        """Start a run and kill it, so many times, each time when it has come further than the time before."""
        chance = random.Random(times)
        for number in range(1, times + 1):
            with self.start(*arguments) as process:
                self.wait_for_pool(process, number)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, 0.3))
                process.kill()

    def wait_for_pool(self, process: subprocess.Popen[bytes], number: int = 1) -> None:
        """Wait until so many pools of queries are safe."""
        while process.poll() is None and self.pools_done() < number:
            time.sleep(0.01)

    def pools_done(self) -> int:
        """Read how many pools of the unfinished output are safe."""
        state = Path("out.part.json")
        done: int = json.loads(state.read_text())["progress"]["pools"] if state.exists() else 0
        return done

    @posix_only
    def test_without_input_on_a_terminal_it_says_so(self) -> None:
        _, terminal = os.openpty()
        with self.start(stdin=terminal) as process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (2, b"")
        assert stderr.startswith(b"error: There is no input.\n")

    def test_results_come_while_input_is_still_to_come_and_a_signal_ends_it(self) -> None:
        with self.start("-", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for line in FEW.splitlines():
                process.stdin.write(f"{line}\n".encode())
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["query_id"] == json.loads(line)["query_id"]
            process.send_signal(signal.SIGTERM)
            process.wait(60)  # and only then is its input closed
            assert process.communicate() == (b"", b"")
        assert process.returncode == 143

    @pytest.mark.slow
    @pytest.mark.parametrize(("format", "kills"), [("jsonl", 20), ("csv", 2), ("parquet", 2)])
    def test_killed_at_random_moments_and_continued_it_is_the_same_bytes(
        self, monkeypatch: pytest.MonkeyPatch, format: str, kills: int
    ) -> None:
        write_nested(Path("hits.jsonl"), made_lists(30 * kills + 60, 50))
        monkeypatch.setenv("CE_RERANK_TEST_SLEEP", "0")
        self.finish("hits.jsonl", "--to", format, "-o", "whole")
        monkeypatch.setenv("CE_RERANK_TEST_SLEEP", "0.001")
        self.kill(kills, "hits.jsonl", "--to", format, "-o", "out", "--resume")
        assert self.pools_done() >= kills
        monkeypatch.setenv("CE_RERANK_TEST_SLEEP", "0")
        self.finish("hits.jsonl", "--to", format, "-o", "out", "--resume")
        assert Path("out").read_bytes() == Path("whole").read_bytes()
        assert not list(Path().glob("out.*"))

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_keeps_what_is_ranked_and_says_how_to_go_on(
        self, number: signal.Signals, code: int
    ) -> None:
        write_nested(Path("hits.jsonl"), made_lists(60, 50))
        self.finish("hits.jsonl", "-o", "whole")
        with self.start("hits.jsonl", "-o", "out") as process:
            self.wait_for_pool(process)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout) == (code, b"")
        queries = len(Path("out.part").read_text().splitlines())
        assert 0 < queries < 60
        assert stderr.decode() == (
            f"warning: Queries finished: {queries}, in {Path.cwd()}/out.part. "
            "To go on, give the same command with --resume.\n"
        )
        self.finish("hits.jsonl", "-o", "out", "--resume")
        assert Path("out").read_bytes() == Path("whole").read_bytes()

    def test_a_reader_that_leaves_early_ends_it_quietly(self) -> None:
        write_nested(Path("hits.jsonl"), made_lists(200, 50))
        with self.start("hits.jsonl") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert process.returncode == 0

    def test_a_disk_that_fills_up_loses_nothing_that_is_finished(self) -> None:
        write_nested(Path("hits.jsonl"), made_lists(60, 50))
        self.finish("hits.jsonl", "-o", "whole")
        limit = Path("whole").stat().st_size // 2

        def fill_up() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        with self.start("hits.jsonl", "-o", "out", preexec_fn=fill_up) as process:
            stdout, stderr = process.communicate(timeout=300)
        assert (process.returncode, stdout) == (4, b"")
        assert re.fullmatch(
            r"warning: Queries finished: \d+, in \S+/out\.part\. "
            r"To go on, give the same command with --resume\.\n"
            r"error: out: File too large\.\n .*\n",
            stderr.decode(),
        )
        self.finish("hits.jsonl", "-o", "out", "--resume")
        assert Path("out").read_bytes() == Path("whole").read_bytes()


def write_collection(folder: Path) -> None:
    """Two queries, four documents; by BM25 the wrong document comes first for both."""
    rows = {"d1": "cat cat one", "d2": "cat nine and more", "d3": "dog dog two", "d4": "dog eight and more"}
    corpus = [json.dumps({"_id": name, "text": text}) for name, text in rows.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus), encoding="utf-8")
    (folder / "queries.tsv").write_text("q1\tcat\nq2\tdog\nq3\tfish\n", encoding="utf-8")
    (folder / "qrels").write_text("q1 0 d2 1\nq2 0 d4 1\n", encoding="utf-8")


SEARCH = ("--queries", "queries.tsv", "--corpus", "corpus.jsonl", "--bm25", "2")


def test_bm25_searches_a_corpus_for_the_candidates_of_each_query(run: Run, tmp_path: Path) -> None:
    write_collection(tmp_path)
    result = run(*SEARCH, "--blend", "0.9")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [[hit["id"] for hit in row["results"]] for row in rows] == [["d1", "d2"], ["d3", "d4"], []]
    assert [hit["score"] for hit in rows[0]["results"]] == pytest.approx([0.8, -0.8], abs=1e-6)
    assert "1 queries share no word" in result.stderr


def test_a_row_of_a_run_without_a_text_can_be_left_out_and_the_error_says_how(
    run: Run, tmp_path: Path
) -> None:
    write_collection(tmp_path)
    Path("run").write_text("q1 Q0 d1 1 1 x\nq1 Q0 d5 1 1 x\n")
    command = (*SEARCH[:4], "--run", "run")
    result = run(*command)
    assert (result.exit_code, "Give --on-error skip" in result.stderr) == (3, True)
    assert run(*command, "--on-error", "skip").exit_code == 5


def test_what_bm25_leaves_out_is_counted(run: Run) -> None:
    result = run("-", "--bm25", "2", "-v", stdin='{"query": "cat", "documents": ["cat", "dog", "fish"]}')
    assert "BM25 left out 2 of 3 documents." in result.stderr


@pytest.mark.parametrize(
    ("first_stage", "output", "names"),
    [
        ((), (), ["first stage", "reranked"]),
        ((), ("-o", "out.csv"), ["first stage", "out.csv"]),
        (("--run", "run"), (), ["run", "reranked"]),
    ],
)
def test_qrels_measure_a_first_stage_before_and_after(
    run: Run, tmp_path: Path, first_stage: tuple[str, ...], output: tuple[str, ...], names: list[str]
) -> None:
    write_collection(tmp_path)
    Path("run").write_text("q1 Q0 d1 1 2 x\nq1 Q0 d2 2 1 x\nq2 Q0 d3 1 2 x\nq2 Q0 d4 2 1 x\n")
    search = (*SEARCH[:4], *first_stage) if first_stage else SEARCH
    result = run(*search, "--qrels", "qrels", "--measure", "P@1", *output)
    found = re.findall(r"(first stage|reranked|run|out\.csv) +(\d\.\d{4})", result.stdout)
    assert found == list(zip(names, ["0.0000", "1.0000"], strict=True))
    assert not output or Path("out.csv").read_text().startswith("query_id,query,")


def test_several_blends_are_measured_side_by_side(run: Run, tmp_path: Path) -> None:
    write_collection(tmp_path)
    result = run(*SEARCH, "--qrels", "qrels", "--measure", "P@1", "--blend", "0.1", "--blend", "0.9")
    value_of = dict(re.findall(r"(blend \S+|first stage) +([\d.]+)", result.stdout))
    assert value_of == {"first stage": "0.0000", "blend 0.1": "1.0000", "blend 0.9": "0.0000"}
    assert run(*SEARCH, "--blend", "0.1", "--blend", "0.9").exit_code == 2
