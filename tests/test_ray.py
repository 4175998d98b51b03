"""Ranking by Ray Data, on a cluster of two nodes on this machine."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import made_lists, open_counting, open_deadly, write_nested
from fakes import CountingEngine
from marks import posix_only
from typer.testing import CliRunner

from ce_rerank import InputError, Reranker, UnavailableError
from ce_rerank.batch.job import Job
from ce_rerank.batch.output import StreamOutput
from ce_rerank.batch.parts import Report
from ce_rerank.batch.read import RowCandidates
from ce_rerank.batch.run import Tally, rank_batch
from ce_rerank.cli.app import app
from ce_rerank.formats.writers import WriteOptions
from ce_rerank.ray import RankBatches, ScorePairs, rank_files

pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of what it does itself
QUERIES = 2000
CPU = {"device": "cpu"}
FAKE = {"open_reranker": open_counting}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one CPU each; the second one is said to have a GPU."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=small)
        try:
            cluster.add_node(**small, num_gpus=1)
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nested(tmp_path_factory.mktemp("input") / "hits.jsonl", made_lists(QUERIES, 8))


def ranked_by_batch(path: Path) -> list[str]:
    stream = io.BytesIO()
    output = StreamOutput(stream, "jsonl", WriteOptions())
    reader = RowCandidates(Job([str(path)]))
    rank_batch(Reranker.from_engine(CountingEngine()), reader, output, Job())
    return stream.getvalue().decode().splitlines()


def lines_of_parts(folder: Path) -> list[str]:
    parts = sorted(folder.glob("part-*"))
    return [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()]


def job_of(hits: Path, **options: Any) -> Job:
    return Job([str(hits)], **{"model": CPU, **options})


@pytest.mark.slow
@posix_only
def test_a_killed_worker_loses_nothing(cluster: Any, hits: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill(report: Report, share: float) -> None:
        if not killed:
            killed.extend(int(path.name) for path in pids.iterdir())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    model = {**CPU, "pids": str(pids), "sleep_seconds": 0.1}
    job = job_of(hits, model=model)
    done = rank_files(job, f"{tmp_path}/out", workers=2, on_report=kill, **FAKE)
    assert killed
    assert len(list(pids.iterdir())) > len(killed)
    assert lines_of_parts(tmp_path / "out") == ranked_by_batch(hits)
    assert done.tally.queries == QUERIES
    summary = json.loads((tmp_path / "out" / "_SUCCESS.json").read_text(encoding="utf-8"))
    assert summary["parts"] == len(list((tmp_path / "out").glob("part-*"))) > 2
    assert (summary["queries"], summary["documents"]) == (QUERIES, 8 * QUERIES)
    assert summary["scored_by"] == ["counting, counting fp32 on cpu"]


@pytest.mark.slow
def test_a_bad_row_ends_the_job_or_is_skipped(cluster: Any, hits: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = hits.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[QUERIES - 2] = '{"query": "red"}\n'
    bad.write_text("".join(lines), encoding="utf-8")
    folder = tmp_path / "out"
    with pytest.raises(InputError) as raised:
        rank_files(job_of(bad), str(folder), workers=1, **FAKE)
    assert raised.value.message.startswith(f"{bad}:{QUERIES - 1}: no list")
    assert not (folder / "_SUCCESS.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    done = rank_files(job_of(bad, skip_bad_rows=True), str(folder), workers=1, resume=True, **FAKE)
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (done.tally.queries, done.tally.bad_rows) == (QUERIES - 1, 1)
    expected = ranked_by_batch(hits)
    del expected[QUERIES - 2]
    assert lines_of_parts(folder) == expected
    (errors,) = folder.glob("errors-*")
    assert json.loads(errors.read_text(encoding="utf-8"))["reason"].startswith(f"{bad}:{QUERIES - 1}: ")
    again = rank_files(job_of(bad), str(folder), resume=True, **FAKE)
    assert again.tally == Tally(queries=QUERIES - 1, bad_rows=1)


@pytest.mark.slow
@posix_only
def test_a_worker_that_dies_each_time_ends_the_job(cluster: Any, hits: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"the worker that ranked part 00000-\d+ died 4 times"):
        rank_files(job_of(hits), f"{tmp_path}/out", workers=1, open_reranker=open_deadly)


@pytest.mark.slow
def test_workers_without_room_are_an_error(
    cluster: Any, hits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ce_rerank.ray.SECONDS_TO_SCHEDULE", 8)
    with pytest.raises(UnavailableError, match="not started 2 workers"):
        rank_files(job_of(hits, model={}), f"{tmp_path}/out", workers=2, **FAKE)


@pytest.mark.slow
def test_the_command_ranks_flat_parquet_into_parts(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    rows = [{"query": f"cat {place // 3}", "text": ["one", "two", "red"][place % 3]} for place in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "flat.parquet", row_group_size=10)
    monkeypatch.setattr("ce_rerank.ray.rank_files", partial(rank_files, **FAKE))
    folder = tmp_path / "out"
    command = ["batch", f"{tmp_path}/flat.parquet", "--ray", "-o", f"file://{folder}", "--to", "parquet"]
    result = CliRunner().invoke(app, [*command, "-k", "1", "-d", "cpu"])
    assert result.exit_code == 0, result.stderr
    (part,) = folder.glob("part-*")
    table = pq.read_table(part)
    assert table.column("query").to_pylist() == [f"cat {number}" for number in range(20)]
    assert set(table.column("text").to_pylist()) == {"two"}


COLLECTION = ("--queries", "queries.jsonl", "--corpus", "notes.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("first_stage", [("--run", "run.trec"), ("--bm25", "3")], ids=["run", "bm25"])
def test_a_collection_is_expanded_and_ranked_as_batch_ranks_it(
    cluster: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_stage: tuple[str, str]
) -> None:
    monkeypatch.chdir(samples)
    monkeypatch.setattr("ce_rerank.batch.parts._CANDIDATES_BYTES", 3000)
    monkeypatch.setattr("ce_rerank.ray.rank_files", partial(rank_files, **FAKE))
    monkeypatch.setattr("ce_rerank.reranker.Reranker", lambda **model: open_counting(**model))
    command = ["batch", *first_stage, *COLLECTION, "-d", "cpu", "--blend", "0.3"]
    whole = CliRunner().invoke(app, command)
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, [*command, "--ray", "-o", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert len(list(folder.glob("part-*"))) > 1
    rows = [json.loads(line) for line in lines_of_parts(folder)]
    assert rows == [json.loads(line) for line in whole.stdout.splitlines()]
    assert sorted(path.name[:5] for path in folder.iterdir() if not path.name.startswith("part-")) == [
        "_SUCC"
    ]


@pytest.mark.slow
def test_a_lost_node_loses_nothing(cluster: Any, hits: Path, tmp_path: Path) -> None:
    """The last test on the cluster: one node is left."""
    nodes = list(cluster.worker_nodes)

    def remove(report: Report, share: float) -> None:
        if nodes:
            cluster.remove_node(nodes.pop())

    job = job_of(hits, model={**CPU, "sleep_seconds": 0.1})
    rank_files(job, f"{tmp_path}/out", workers=2, on_report=remove, **FAKE)
    assert not nodes
    assert Counter(lines_of_parts(tmp_path / "out")) == Counter(ranked_by_batch(hits))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.ray.Reranker", lambda model, **options: open_counting(**options))


@pytest.mark.parametrize("shape", [pa.Table.from_pylist, lambda rows: pa.Table.from_pylist(rows).to_pydict()])
def test_batches_get_results(counting: None, shape: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = [
        {"query": "red", "documents": [{"text": "one", "id": 7}, {"text": "three", "id": 8}], "year": 1},
        {"query": "blue", "documents": [{"text": " ", "id": 9}], "year": 2},
    ]
    ranked = RankBatches("counting", top_k=1, device="cpu")(shape(rows)).to_pylist()
    assert ranked == [
        {**rows[0], "results": [{"index": 1, "score": 1.5, "text": "three"}]},
        {**rows[1], "results": [{"index": 0, "score": None, "text": " "}]},
    ]


def test_pairs_get_scores(counting: None) -> None:
    pairs = pa.table({"q": ["red", "blue"], "t": ["two", "five six"], "n": [1, 2]})
    scored = ScorePairs("counting", query_field="q", text_field="t", scores="logit")(pairs)
    assert scored.drop_columns(["score"]) == pairs
    assert scored.column("score").to_pylist() == [2, 11]
    assert scored.schema.field("score").type == pa.float32()


def test_a_cluster_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    hits = write_nested(tmp_path / "hits.jsonl", made_lists(2, 2))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        rank_files(job_of(hits), f"{tmp_path}/out", address="127.0.0.1:9")
    assert "out is not complete. To go on, give the same command with --resume." in caplog.text


def test_without_ray_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(app, ["batch", "hits.jsonl", "--ray", "-o", str(tmp_path / "out")])
    assert result.exit_code == 4
    assert "pip install 'ce-rerank[ray]'" in result.stderr
