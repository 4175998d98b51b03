"""Many GPUs and many machines: ranking by Ray Data (extra `ray`).

`RankBatches` and `ScorePairs` are for your own pipelines:

    import ray
    from ce_rerank.ray import RankBatches

    rows = ray.data.read_parquet("s3://bucket/candidates/")
    ranked = rows.map_batches(
        RankBatches, fn_constructor_kwargs={"model": "minilm-l12", "top_k": 10},
        batch_size=64, num_gpus=1, compute=ray.data.ActorPoolStrategy(size=8),
    )
    ranked.write_parquet("s3://bucket/ranked/")

On CPUs, let the actors leave a CPU free (`num_cpus=0.4` for each of two on two CPUs): Ray's own tasks, which
read and write, would else wait for ever.

`rank_files` is the job behind `ce-rerank batch --ray`: each task ranks a unit of the input (`batch.parts`)
with the reader and the writers of `batch`. A task whose worker dies is done again. The driver loads no model.

Importing this module imports neither Ray nor pyarrow.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .batch.job import Job
from .batch.output import StreamOutput
from .batch.parts import PartFolder, Report, Unit, cut, find_files, kept_warnings
from .batch.run import BadRow, rank_batch
from .errors import CeRerankError, UnavailableError, missing_package
from .formats.writers import WriteOptions, result_row
from .reranker import Reranker
from .types import RankKeywords, ScoreScale

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("ce_rerank")

SECONDS_TO_SCHEDULE = 60
"""How long a job waits for its workers to start."""
SECONDS_TO_CONNECT = 10
ATTEMPTS = 4
"""How often a unit is tried when its worker dies; Ray Data would try it for ever."""

_RANK_NAMES = {*RankKeywords.__annotations__, "text_field", "id_field"}


class RankBatches:
    """Rank nested rows, for `Dataset.map_batches`; one object holds one `Reranker`.

    A batch is an Arrow table, or columns by their names, whose rows are what `Reranker.rank_many` takes: a
    query and a list of documents. It is returned with one more column, `results`: for each row a list, best
    first, of `index` (the document's place in the row's list, from 0), `score` (null for a blank document)
    and `text`. `options` are the arguments of `Reranker` and of its `rank_many`, and errors are theirs.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self._ranking = {name: options.pop(name) for name in _RANK_NAMES & options.keys()}
        self._reranker = Reranker(model, **options)

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> pa.Table:
        """Return the batch as an Arrow table with `results`."""
        import pyarrow as pa

        table = _as_table(batch)
        rankings = self._reranker.rank_many(table.to_pylist(), **self._ranking)
        results = [[result_row(ranked, WriteOptions()) for ranked in ranking] for ranking in rankings]
        kind = pa.struct([("index", pa.int64()), ("score", pa.float32()), ("text", pa.string())])
        return table.append_column("results", pa.array(results, pa.list_(kind)))


class ScorePairs:
    """Score flat rows, for `Dataset.map_batches`; one object holds one `Reranker`.

    A batch is an Arrow table, or columns by their names, with strings in the columns `query_field` and
    `text_field`. It is returned with one more column, `score`: float32, on the scale that `scores` names.
    `options` are the other arguments of `Reranker`. Errors are those of `Reranker.score`.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        query_field: str = "query",
        text_field: str = "text",
        scores: ScoreScale = "model",
        **options: Any,
    ) -> None:
        self._fields = [query_field, text_field]
        self._scores = scores
        self._reranker = Reranker(model, **options)

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> pa.Table:
        """Return the batch as an Arrow table with `score`."""
        import pyarrow as pa

        table = _as_table(batch)
        columns = [table.column(name).to_pylist() for name in self._fields]
        scores = self._reranker.score(list(zip(*columns, strict=True)), scores=self._scores)
        return table.append_column("score", pa.array(scores, pa.float32()))


def _as_table(batch: pa.Table | Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    if isinstance(batch, pa.Table):
        return batch
    return pa.table({name: pa.array(list(column)) for name, column in batch.items()})


def rank_files(
    job: Job,
    output: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    on_report: Callable[[Report, float], None] = lambda report, share: None,
    open_reranker: Callable[..., Reranker] = Reranker,
) -> Report:
    """Rank a job by Ray Data into the part files of a folder; return the sum of the reports of all runs.

    `output` is a folder, and the `inputs` of the job are files, folders and globs; each is a path or a URL.
    Rows of the same query in two files are two queries, and a query id that comes again in another unit is
    not noticed. Other input than files of rows (stdin, a run, a corpus) is read here first, as a whole.

    `address` is that of a Ray cluster; None starts one on this machine, and ends it. `workers` defaults to
    the number of GPUs, or of machines if there are no GPUs. `on_report` is called after each unit with the
    sum so far and the share of the units that are done. Each worker calls `open_reranker` with `job.model`.

    Raises UsageError for a folder that cannot be used, InputError for a row that cannot be ranked,
    OutputError for a part that cannot be written, and UnavailableError if Ray is not installed or has no room
    for the workers.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise missing_package(f"--ray needs the ray package ({error}).", "ray") from None
    is_cut = job.queries is None and not job.corpus and "-" not in job.inputs
    files = find_files(job.inputs) if is_cut else []
    folder = PartFolder(output)
    if complete := folder.begin(job, files, resume=resume):
        log.warning("%s is complete; nothing was ranked. Remove it to rank again.", output)
        return complete
    units = cut(job, files) if is_cut else folder.write_candidates(job)
    reports = folder.reports()
    left = [unit for unit in units if unit.place not in reports]
    done = sum(reports.values(), Report())
    if left:
        try:
            with _running_ray(address):
                for count, report in enumerate(_run(job, folder, left, workers, open_reranker), 1):
                    for warning in report.warnings:
                        if warning not in done.warnings:
                            log.warning("%s", warning)
                    done += report
                    on_report(done, 1 - (len(left) - count) / len(units))
        except BaseException:
            log.warning("%s is not complete. To go on, give the same command with --resume.", output)
            raise
    counts = {**asdict(done.tally), "parts": len(units)}
    folder.finish({**counts, "scored_by": done.scored_by})
    return done


def _run(
    job: Job,
    folder: PartFolder,
    units: Sequence[Unit],
    workers: int | None,
    open_reranker: Callable[..., Reranker],
) -> Iterator[Report]:
    """Yield the report of each unit when it is done; raise the first error."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpus = gpus > 0 and job.model.get("device", "auto") != "cpu" and job.model.get("engine") != "openvino"
    kind = "GPU" if on_gpus else "CPU"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
    workers = min(workers or (gpus if on_gpus else len(nodes)), len(units))
    workers_a_node = max(node["GPU"] for node in nodes) if on_gpus else -(-workers // len(nodes))
    cpus = min(node.get("CPU", 0) for node in nodes)
    if not on_gpus and not job.model.get("threads"):
        job = replace(job, model={**job.model, "threads": max(1, int(cpus / workers_a_node))})
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = SECONDS_TO_SCHEDULE
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    outcomes = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        _RankUnits,
        fn_constructor_args=[job, folder, units, open_reranker],
        batch_size=1,
        compute=ActorPoolStrategy(size=workers),
        # One CPU of each node stays for Ray's own tasks, which would else wait for ever.
        num_cpus=round(0.8 * max(0, cpus - 1) / workers_a_node, 2),
        num_gpus=1 if on_gpus else 0,
    )
    try:
        for row in outcomes.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, CeRerankError):
                raise outcome
            yield outcome
    except ray.exceptions.GetTimeoutError:
        free = ray.available_resources().get(kind, 0)
        raise UnavailableError(
            f"Ray has not started {workers} workers in {SECONDS_TO_SCHEDULE} seconds: {free:g} of "
            f"{ray.cluster_resources().get(kind, 0):g} {kind}s are free.",
            hint="Give fewer --workers, or wait until other jobs are done.",
        ) from None


class _RankUnits:
    """Ranks units in a worker; the model is loaded for the first unit, so that the worker starts quickly."""

    def __init__(
        self, job: Job, folder: PartFolder, units: Sequence[Unit], open_reranker: Callable[..., Reranker]
    ) -> None:
        self._job = job
        self._folder = folder
        self._units = units
        self._open_reranker = functools.cache(lambda: open_reranker(**job.model))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        unit = self._units[batch["id"][0]]
        outcome: Report | CeRerankError
        try:
            outcome = self._rank(unit)
        except CeRerankError as error:
            outcome = type(error)(unit.with_places(error.message), hint=error.hint)
        return {"outcome": [pickle.dumps(outcome)]}

    def _rank(self, unit: Unit) -> Report:
        job, folder = self._job, self._folder
        if folder.count_attempts(unit.place) > ATTEMPTS:
            raise UnavailableError(
                f"{unit.name}: the worker that ranked part {unit.place} died {ATTEMPTS} times.",
                hint="It may lack memory: give a smaller --batch-tokens, or fewer --workers.",
            )
        bad_rows: list[BadRow] = []
        name = f"part-{unit.place}.{'jsonl' if job.format == 'rows' else job.format}"
        with kept_warnings() as warnings, folder.write_whole(name) as part:
            reranker = self._open_reranker()
            info = reranker.info
            writing = replace(job.writing, model=info.description)
            output = StreamOutput(part, job.format, writing, bad_rows)
            tally = rank_batch(reranker, unit.open_reader(job), output, job)
        told = list(dict.fromkeys(map(unit.with_places, warnings)))
        report = Report(tally, [info.description], info.max_length, told)
        folder.report(unit.place, report, [BadRow(unit.with_places(bad.reason), bad.row) for bad in bad_rows])
        return report


@contextmanager
def _running_ray(address: str | None) -> Iterator[None]:
    """Join the cluster at an address, or start one on this machine; leave it, or end it."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {} if address else {"object_store_memory": 100 << 20, "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        where = urlsplit("//" + (address or "").removeprefix("ray://"))
        if where.port:  # Ray itself would wait for many minutes
            socket.create_connection((where.hostname, where.port), SECONDS_TO_CONNECT).close()
        with _without_log_of_ray():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"Ray cannot be reached at {address}: {error}" if address else f"Ray cannot be started: {error}",
            hint="Give the --ray-address of a cluster that runs, or leave it out.",
        ) from None
    finally:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _without_log_of_ray() -> Iterator[None]:
    """Hide what Ray's C++ parts log: they take the actors that Ray Data makes for an error.

    They read the level once, and print a line about it: until then stderr is the null device.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
