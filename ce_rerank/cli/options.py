"""The options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..errors import UsageError
from ..types import EngineName, LongPolicy, PoolName, Precision, RankOptions, ScoreScale
from .commands import MODEL, option

if TYPE_CHECKING:
    from ..formats.documents import ReadOptions

OnError = Literal["stop", "skip"]
INPUT, RANKING, OUTPUT, MESSAGES = "Input", "Ranking", "Output", "Messages"

FROM = option("--from", panel=INPUT, help="The format. Default: by suffix, else by the first bytes.")


def _none_for_stdout(path: Path | None) -> Path | None:
    return None if path == Path("-") else path


Output = Annotated[
    Path | None,
    option(
        "--output", "-o", panel=OUTPUT, metavar="PATH", callback=_none_for_stdout,
        help="Write this file, whole or not at all; - is stdout.",
    ),
]  # fmt: skip
Revision = Annotated[
    str | None,
    option("--revision", panel=MODEL, metavar="REV", help="The branch, tag or commit of a hub model."),
]
Offline = Annotated[bool, option("--offline", panel=MODEL, help="Never use the network.")]
TrustRemoteCode = Annotated[
    bool, option("--trust-remote-code", panel=MODEL, help="Run Python code that comes with the model.")
]
AllowPickle = Annotated[
    bool, option("--allow-pickle", panel=MODEL, help="Load pickled weights, which can run any code.")
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, and how it is run; the fields have the names of `Reranker`'s arguments."""

    model: Annotated[
        str | None,
        option(
            "--model", "-m", panel=MODEL, metavar="NAME|PATH",
            help="A hub model, its short name, or a folder. Default: offline if installed, "
            "else cross-encoder/ms-marco-MiniLM-L-6-v2.",
        ),
    ] = None  # fmt: skip
    revision: Revision = None
    device: Annotated[
        str, option("--device", "-d", panel=MODEL, metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto"
    engine: Annotated[EngineName, option("--engine", panel=MODEL, help="What scores the pairs.")] = "auto"
    precision: Annotated[
        Precision, option("--precision", panel=MODEL, help="auto: bf16 where native, else fp32.")
    ] = "auto"
    max_length: Annotated[
        int | None,
        option(
            "--max-length", panel=MODEL, metavar="TOKENS", min=8,
            help="Read at most so many tokens of query and document. Default: the model's limit.",
        ),
    ] = None  # fmt: skip
    batch_tokens: Annotated[
        int | None,
        option(
            "--batch-tokens", panel=MODEL, metavar="TOKENS", min=1,
            help="The size of a batch, padding included. Less needs less memory.",
        ),
    ] = None  # fmt: skip
    threads: Annotated[
        int | None, option("--threads", panel=MODEL, metavar="N", min=1, help="CPU threads. Default: all.")
    ] = None
    offline: Offline = False
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How rows become documents."""

    text_field: Annotated[
        list[str] | None,
        option(
            "--text-field", panel=INPUT, metavar="NAME",
            help="The field with the text; a.b.c for nested objects. Repeat it to join fields.",
        ),
    ] = None  # fmt: skip
    id_field: Annotated[
        str | None,
        option(
            "--id-field", panel=INPUT, metavar="NAME", help="The field with the id. Default: id or the like."
        ),
    ] = None
    columns: Annotated[
        str | None,
        option("--columns", panel=INPUT, metavar="A,B,C", help="The columns of a table that has no header."),
    ] = None
    delimiter: Annotated[
        str | None,
        option(
            "--delimiter", panel=INPUT, metavar="C", help="What stands between a table's cells, \\t for tab."
        ),
    ] = None

    def read_options(self, format: str | None, *, whole_files: bool = False) -> ReadOptions:
        """Return these as the formats take them."""
        from ..formats.documents import ReadOptions

        return ReadOptions(
            format,
            tuple(self.text_field or ()),
            self.id_field,
            whole_files,
            columns=tuple(self.columns.split(",")) if self.columns else (),
            delimiter="\t" if self.delimiter == "\\t" else self.delimiter,
        )


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which documents come out, on which scale, and what is done with long ones."""

    top_k: Annotated[
        int | None,
        option("--top-k", "-k", panel=RANKING, metavar="N", min=1, help="Keep the best N. Default: all."),
    ] = None
    min_score: Annotated[
        float | None,
        option("--min-score", panel=RANKING, metavar="X", help="Leave out scores below X."),
    ] = None
    scores: Annotated[
        ScoreScale,
        option("--scores", panel=RANKING, help="As the model gives them, as logits, or from 0 to 1."),
    ] = "model"
    long: Annotated[
        LongPolicy,
        option("--long", panel=RANKING, help="Over the model's limit: cut, score by passages, or stop."),
    ] = "truncate"
    chunk_tokens: Annotated[
        int | None,
        option("--chunk-tokens", panel=RANKING, metavar="TOKENS", min=1, help="The size of a passage."),
    ] = None
    chunk_overlap: Annotated[
        int | None,
        option(
            "--chunk-overlap", panel=RANKING, metavar="TOKENS", min=0,
            help="How far passages overlap. Default: a quarter.",
        ),
    ] = None  # fmt: skip
    pool: Annotated[
        PoolName, option("--pool", panel=RANKING, help="How passage scores make a document's score.")
    ] = "max"

    def rank_options(self) -> RankOptions:
        """Return these as the library takes them; raise UsageError for a combination that means nothing."""
        return RankOptions(**as_keywords(self))


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where rankings go, and what is in them."""

    output: Output = None
    no_text: Annotated[bool, option("--no-text", panel=OUTPUT, help="Leave the text out.")] = False
    details: Annotated[
        bool,
        option(
            "--details", panel=OUTPUT, help="Add rank, tokens, what was cut, the best passage, the model."
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """How much is said on stderr."""

    quiet: Annotated[bool, option("--quiet", "-Q", panel=MESSAGES, help="Print only errors.")] = False
    verbose: Annotated[
        bool, option("--verbose", "-v", panel=MESSAGES, help="Print what was chosen, and why.")
    ] = False
    debug: Annotated[bool, option("--debug", panel=MESSAGES, help="Print the traceback of an error.")] = False


def as_keywords(options: Any) -> dict[str, Any]:
    """Return a group's values by their names, which are the library's own."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def format_of_output(path: Path | None, formats: Mapping[str, str], default: str) -> str:
    """Return the format that an output's suffix names, or the default where it has none.

    Raises UsageError for a suffix that names no format of this command.
    """
    suffix = path.suffix.lower() if path else ""
    if not suffix:
        return default
    if suffix not in formats:
        raise UsageError(
            f"{path}: {suffix} is not a format that is written here.",
            hint=f"Name the file with {', '.join(formats)}, or give the format with --to.",
        )
    return formats[suffix]
