"""A batch job: where the candidates come from, how they are ranked, what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..formats.documents import ReadOptions
from ..formats.rows import WriteOptions
from ..formats.source import Source, is_pipe_or_device
from ..types import RankOptions
from .ahead import WHOLE, CandidateReader
from .first_stage import CorpusCandidates
from .read import RowCandidates
from .resume import digest_folder

if TYPE_CHECKING:
    from ..engines.base import EngineInfo

_MODEL_OPTIONS = ("revision", "device", "engine", "precision", "max_length", "instruction")


@dataclass(frozen=True)
class Job:
    """A batch job. `-` is the name of stdin; `model` has the arguments of `Reranker`.

    Candidates are the rows of `inputs`, or documents of `corpus`: those that a TREC `run` names or, without a
    run, those that BM25 finds. Raises UsageError for fields that contradict each other.
    """

    inputs: Sequence[str] = ()
    run: str | None = None
    queries: str | None = None
    corpus: Sequence[str] = ()
    query_field: str | None = None
    documents_field: str | None = None
    shard: range = WHOLE
    skip_bad_rows: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)
    ranking: RankOptions = field(default_factory=RankOptions)
    writing: WriteOptions = field(default_factory=WriteOptions)
    format: str = "jsonl"
    model: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        if self.run is not None or self.corpus:
            if self.inputs:
                raise UsageError("There are INPUT and a run or corpus.", hint="Give one of them.")
            if self.query_field or self.documents_field:
                raise UsageError("--query-field and --documents-field are about rows, and there are none.")
            if (self.run is None) == (self.ranking.bm25 is None):
                raise UsageError(
                    "The candidates in a corpus are those of a run, or those that BM25 finds.",
                    hint="Give --run RUN or --bm25 N, not both.",
                )
            if self.queries is None or not self.corpus:
                missing = "--queries" if self.queries is None else "--corpus"
                raise UsageError(
                    f"A run and BM25 need queries and a corpus, and there is no {missing}.",
                    hint=f"Give {missing} FILE.",
                )
        elif not self.inputs:
            raise UsageError("There is no input.", hint="Name files, or - for stdin.")
        if self.format != "trec" and self.writing.run_name != WriteOptions().run_name:
            raise UsageError(
                f"--run-name is about a TREC run, and the output is {self.format}.",
                hint="Give --to trec, or leave it out.",
            )
        if self.names.count("-") > 1:
            raise UsageError("stdin is named more than once.", hint="Give - once.")

    @property
    def names(self) -> list[str]:
        """The names of all files that are read."""
        return [*self.inputs, *filter(None, (self.run, self.queries, *self.corpus))]

    def open_reader(self, *, with_ids: bool = False) -> CandidateReader:
        """Return a reader of the candidates; raise InputError for a file that cannot be opened.

        With TREC output, or `with_ids`, a query or document without an id is refused.
        """
        inputs, corpus = (list(map(Source.from_name, names)) for names in (self.inputs, self.corpus))
        run, queries = (None if name is None else Source.from_name(name) for name in (self.run, self.queries))
        for source in filter(None, (run, queries, *corpus, *inputs)):
            # A pipe cannot be opened twice.
            if source.path is not None and not is_pipe_or_device(source.path):
                with source.open():
                    pass
        if corpus and queries is not None:
            return CorpusCandidates(run, queries, corpus, self.reading, self.ranking)
        return RowCandidates(
            inputs, self.reading, queries=queries, for_trec=with_ids or self.format == "trec",
            query_field=self.query_field, documents_field=self.documents_field,
        )  # fmt: skip

    def settings(self, info: EngineInfo | None = None) -> dict[str, Any]:
        """Return what the bytes of the output depend on besides the input, with the names that a user knows.

        `info` describes the loaded model. --batch-tokens and --threads are not here: a run that lacked memory
        is continued with other values.
        """
        model = self.model if info is None else asdict(info)
        return {
            "ce-rerank": self.version,
            "the model": model.get("model"),
            "the model's content": info and digest_folder(Path(info.model).expanduser()),
            "the activation": model.get("activation"),
            **{_option(name): model.get(name) for name in _MODEL_OPTIONS},
            **{_option(name): value for name, value in asdict(self.ranking).items()},
            "--from": self.reading.format,
            "--text-field": list(self.reading.text_fields),
            "--id-field": self.reading.id_field,
            "--columns": list(self.reading.columns),
            "--delimiter": self.reading.delimiter,
            "--query-field": self.query_field,
            "--documents-field": self.documents_field,
            "--shard": None if self.shard == WHOLE else f"{self.shard.start + 1}/{self.shard.step}",
            "--to": self.format,
            "--no-text": not self.writing.with_text,
            "--details": self.writing.details,
            "--run-name": self.writing.run_name,
        }


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
