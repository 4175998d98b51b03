"""`ce-rerank batch --qrels`: what the reranking gained, from candidates to numbers in one command."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..batch.resume import require_other_files
from ..errors import UsageError
from ..evaluation import Judgements, Run, evaluate, load_judgements, load_run
from ..formats.output import is_written_directly
from ..formats.source import Source, is_pipe_or_device
from ..measures import DEFAULT_MEASURES, parse_measures
from .comparison import draw_evaluation
from .console import stdout_console

_READABLE = ("jsonl", "rows", "trec")


@dataclass(frozen=True, slots=True)
class Gains:
    """The first stage's run, measured and waiting for what the reranking makes of it."""

    judgements: Judgements
    before: Run
    measures: tuple[str, ...]

    @classmethod
    def prepare(
        cls,
        run: str | None,
        qrels: str,
        measures: Sequence[str] | None,
        format: str,
        *,
        output: Path | None = None,
        shard: str | None = None,
    ) -> Gains:
        """Read the judgements and the run, so that what is wrong with them is said before anything is scored.

        The other arguments are what `batch` was given. Raises UsageError for what does not go together.
        """
        if run is None:
            raise UsageError(
                "--qrels measures before and after, and there is no --run.", hint="Give --run RUN."
            )
        _require_readable_twice(run)
        if shard is not None:
            raise UsageError(
                "--qrels measures a whole run, and --shard ranks a part of it.",
                hint="Measure all parts together: ce-rerank evaluate RUN RERANKED --qrels QRELS.",
            )
        _require_readable_output(output, qrels, format)
        names = tuple(measures or DEFAULT_MEASURES)
        parse_measures(names)
        judgements = load_judgements(Source.from_path(Path(qrels)))
        return cls(judgements, load_run(Source.from_path(Path(run)), judgements), names)

    def draw(self, output: Path, name: str) -> None:
        """Draw before and after, with what is to be thought of the difference, on stdout."""
        after = replace(load_run(Source.from_path(output), self.judgements), name=name)
        console = stdout_console()
        draw_evaluation(console, evaluate([self.before, after], self.judgements, self.measures))


def _require_readable_twice(run: str) -> None:
    if run == "-" or is_pipe_or_device(Path(run)):
        name = "stdin" if run == "-" else run
        raise UsageError(
            f"--qrels reads the run twice, to measure it and to rank it, and {name} can be read once.",
            hint="Put it into a file first.",
        )


def _require_readable_output(output: Path | None, qrels: str, format: str) -> None:
    if format not in _READABLE:
        raise UsageError(
            f"--qrels reads the output again, which is {format}.",
            hint=f"Give --to {' or '.join(_READABLE)}.",
        )
    if output is None:
        return
    if is_written_directly(output):
        raise UsageError(
            f"--qrels reads the output again, and {output} is no file.",
            hint="Name a file with --output, or leave it out to see the measures alone.",
        )
    require_other_files(output, [qrels])


@contextmanager
def output_or_nowhere(path: Path | None) -> Iterator[Path]:
    """Give the file that the results go to: one that is gone afterwards, where none is named."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ce-rerank-") as folder:
        yield Path(folder, "reranked.trec")
