"""The options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ..errors import UsageError
from ..types import EngineName, LongPolicy, PoolName, Precision, RankOptions, ScoreScale
from .commands import MESSAGES, MODEL, option, option_field

if TYPE_CHECKING:
    from ..formats.documents import ReadOptions

INPUT, RANKING, OUTPUT = "Input", "Ranking", "Output"
OnError = Literal["stop", "skip"]

FROM = option("--from", panel=INPUT, help="The format. Default: by suffix, else by the first bytes.")


def _none_for_stdout(path: Path | None) -> Path | None:
    return None if path in (Path("-"), Path("/dev/stdout")) else path


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


@dataclass(frozen=True)
class ModelOptions:
    """Which model ranks, and how; the fields have the names of `Reranker`'s arguments."""

    panel: ClassVar = MODEL
    model: str | None = option_field(
        None, "--model", "-m", metavar="NAME|PATH|URL",
        help="A hub model, its short name, a folder, or a server. "
        "Default: offline if installed, else minilm-l6.",
    )  # fmt: skip
    revision: Revision = None
    device: str = option_field(
        "auto", "--device", "-d", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps."
    )
    engine: EngineName = option_field("auto", help="What scores the pairs.")
    precision: Precision = option_field("auto", help="auto is bf16 where the CPU or GPU has it, else fp32.")
    max_length: int | None = option_field(
        None, metavar="TOKENS", min=8, help="The most tokens of a query and a document."
    )
    batch_tokens: int | None = option_field(
        None, metavar="TOKENS", min=1, help="The size of a batch; smaller needs less memory."
    )
    threads: int | None = option_field(None, metavar="N", min=1, help="CPU threads. Default: all.")
    instruction: str | None = option_field(
        None, metavar="TEXT", help="The task, for models that take one. Default: the model's own."
    )
    offline: Offline = False
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False


@dataclass(frozen=True)
class InputOptions:
    """How rows are read as documents."""

    panel: ClassVar = INPUT
    text_field: list[str] | None = option_field(
        None, metavar="NAME", help="The field with the text; a.b.c for nested objects. Repeatable: joined."
    )
    id_field: str | None = option_field(
        None, metavar="NAME", help="The field with the id. Default: id or the like."
    )
    columns: str | None = option_field(
        None, metavar="A,B,C", help="The columns of a table that has no header."
    )
    delimiter: str | None = option_field(
        None, metavar="C", help="The character between a table's cells; \\t is a tab."
    )

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


@dataclass(frozen=True)
class SelectionOptions:
    """Which documents come out, on which scale, and how long ones are read."""

    panel: ClassVar = RANKING
    top_k: int | None = option_field(
        None, "--top-k", "-k", metavar="N", min=1, help="Keep the best N. Default: all."
    )
    min_score: float | None = option_field(None, metavar="X", help="Leave out scores below X.")
    scores: ScoreScale = option_field("model", help="As the model gives them, as logits, or from 0 to 1.")
    long: LongPolicy = option_field(
        "truncate", help="What to do with a long document: cut it, score passages, or stop."
    )
    chunk_tokens: int | None = option_field(
        None, metavar="TOKENS", min=1, help="The size of a passage. Default: 192."
    )
    chunk_overlap: int | None = option_field(
        None, metavar="TOKENS", min=0, help="How far passages overlap. Default: a quarter."
    )
    pool: PoolName = option_field("max", help="How passage scores make a document's score.")
    bm25: int | None = option_field(
        None, "--bm25", metavar="N", min=1, help="Let BM25 choose N documents, and score only those."
    )
    bm25_language: str = option_field(
        "english", "--bm25-language", metavar="NAME", help="The language of its word stems, or none."
    )
    first_score_field: str | None = option_field(
        None, metavar="NAME", help="The field with a first stage's score; -NAME if less is better."
    )
    blend: list[float] | None = option_field(
        None, metavar="W", min=0, max=1, help="The weight of a first stage's score, from 0 to 1."
    )

    def rank_options(self) -> RankOptions:
        """Return these as the library takes them; raise UsageError for options that contradict each other."""
        weights = self.blend or [0.0]
        if len(weights) > 1:
            raise UsageError("--blend is given more than once.", hint="Give it once.")
        return RankOptions(**{**asdict(self), "blend": weights[0]})

    def first_stage_names(self, *, details: bool) -> tuple[str, ...]:
        """Return the columns that a first stage adds to a table of results."""
        blended = ("model_score", "first_score") if self.blend else ()
        return (*blended, "bm25") if details and self.bm25 else blended


@dataclass(frozen=True)
class OutputOptions:
    """Where rankings go, and what is in them."""

    panel: ClassVar = OUTPUT
    output: Output = None
    no_text: bool = option_field(False, help="Leave the text out.")
    details: bool = option_field(False, help="Add rank, tokens, what was cut, the best passage, the model.")


@dataclass(frozen=True)
class MessageOptions:
    """How much is said on stderr."""

    panel: ClassVar = MESSAGES
    quiet: bool = option_field(False, "--quiet", "-Q", help="Print only errors.")
    verbose: bool = option_field(False, "--verbose", "-v", help="Print what was chosen, and why.")
    debug: bool = option_field(False, help="Print the traceback of an error.")


def as_arguments(keywords: Mapping[str, Any]) -> list[str]:
    """Return the arguments that give these values to a command."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in keywords.items()]
    return [
        option if value is True else f"{option}={value}"
        for option, value in given
        if value is not None and value is not False
    ]


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
