"""A batch job: what is read, how it is ranked, and what is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import digest_json
from ..formats.documents import ReadOptions
from ..formats.writers import WriteOptions
from ..models.checkpoint import Checkpoint, select_files
from ..types import RankOptions

if TYPE_CHECKING:
    from ..engines.base import EngineInfo

WHOLE = range(sys.maxsize)
"""Every query, by its place in the input, from 0."""

_MODEL_OPTIONS = ("revision", "device", "engine", "precision", "max_length", "instruction")


@dataclass(frozen=True)
class Job:
    """A batch job. `-` is the name of stdin; `model` has the arguments of `Reranker`.

    With `needs_ids`, or TREC output, queries and documents need ids that a TREC run can hold.

    Candidates are the rows of `inputs`, or documents of `corpus`: those that a TREC `run` names or, without a
    run, those that BM25 finds.
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
    needs_ids: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def names(self) -> list[str]:
        """The names of all files that are read."""
        return [*self.inputs, *filter(None, (self.run, self.queries, *self.corpus))]

    def settings(self, info: EngineInfo | None = None) -> dict[str, Any]:
        """Return what the bytes of the output depend on besides the input, with the names that a user knows.

        `info` describes the loaded model. --batch-tokens and --threads are not here: a run that lacked memory
        is continued with other values.
        """
        model = self.model if info is None else asdict(info)
        options = {name: model.get(name) for name in _MODEL_OPTIONS} | asdict(self.ranking)
        return {
            "ce-rerank": self.version,
            "the model": model.get("model"),
            "the model's content": info and digest_folder(Path(info.model).expanduser()),
            "the activation": model.get("activation"),
            **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
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


def parse_shard(text: str) -> range:
    """Return the places of every N-th query from the I-th on, for `I/N`; raise UsageError otherwise."""
    found = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f'"{text}" is not a shard.', hint="Give I/N with I from 1 to N.")
    return range(int(found[1]) - 1, sys.maxsize, int(found[2]))


def require_same(name: str | Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError if the settings of the unfinished output `name` are not those of this run."""
    differences = [
        f"{setting} was {_show(was.get(setting))}, and is {_show(now.get(setting))}"
        for setting in dict.fromkeys((*was, *now))
        if was.get(setting) != now.get(setting)
    ]
    if differences:
        raise UsageError(
            f"{name} is of another run: {'; '.join(differences)}.",
            hint="Run it as it was begun (--batch-tokens and --threads may differ), or remove that to begin "
            "again.",
        )


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def digest_folder(folder: Path) -> str | None:
    """Return a digest of a model's files, including those of its modules; None if it is no folder."""
    if not folder.is_dir():
        return None
    from ..engines.openvino.cache import digest_files

    needed = select_files(Checkpoint("", folder, "folder").files, with_code=True)
    names = sorted({*needed, *(path.name for path in folder.iterdir() if path.is_file())})
    digests = digest_files(folder / name for name in names)
    return digest_json([names, digests])[:16]
