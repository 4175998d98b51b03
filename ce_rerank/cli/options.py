"""The options that several commands share, declared once, and how a command takes them by the group.

A command declares one parameter for a group (`model: ModelOptions`); `with_option_groups` spreads the
group's fields over the command line, and hands the command the group filled in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..types import EngineName, LongPolicy, PoolName, Precision, RankOptions, ScoreScale

if TYPE_CHECKING:
    from ..formats.documents import ReadOptions

_MODEL = "Model and machine"
_INPUT = "Input"
_RANKING = "Ranking"
_OUTPUT = "Output"
_MANNERS = "Messages"


def _environment(name: str) -> str:
    return f"CE_RERANK_{name}"


# What of a model is taken, and from where: `models pull` and `models export` ask that, too.
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REV",
        envvar=_environment("REVISION"),
        rich_help_panel=_MODEL,
        help="The branch, tag or commit of a hub model.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        envvar=_environment("OFFLINE"),
        rich_help_panel=_MODEL,
        help="Never try the network: only what is on this machine.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        envvar=_environment("TRUST_REMOTE_CODE"),
        rich_help_panel=_MODEL,
        help="Run Python code that comes with the model.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        envvar=_environment("ALLOW_PICKLE"),
        rich_help_panel=_MODEL,
        help="Load weights that are only there as a pickle, which can run code.",
    ),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model, and how it is run."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|PATH",
            envvar=_environment("MODEL"),
            rich_help_panel=_MODEL,
            help="A hub model, an alias of one, or a folder. Default: the offline weights where they are "
            "installed, else cross-encoder/ms-marco-MiniLM-L-6-v2.",
        ),
    ] = None
    revision: Revision = None
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="DEVICE",
            envvar=_environment("DEVICE"),
            rich_help_panel=_MODEL,
            help="auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto"
    engine: Annotated[
        EngineName,
        typer.Option(
            "--engine", envvar=_environment("ENGINE"), rich_help_panel=_MODEL, help="What scores the pairs."
        ),
    ] = "auto"
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            envvar=_environment("PRECISION"),
            rich_help_panel=_MODEL,
            help="The arithmetic. auto: bf16 where the machine has it natively, else fp32.",
        ),
    ] = "auto"
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            metavar="TOKENS",
            min=8,
            envvar=_environment("MAX_LENGTH"),
            rich_help_panel=_MODEL,
            help="Read at most this many tokens of a pair. Default: the model's limit.",
        ),
    ] = None
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--batch-tokens",
            metavar="TOKENS",
            min=1,
            envvar=_environment("BATCH_TOKENS"),
            rich_help_panel=_MODEL,
            help="The size of a batch, padding included. Default: what the engine runs best with.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            envvar=_environment("THREADS"),
            rich_help_panel=_MODEL,
            help="How many CPU threads may work. Default: all.",
        ),
    ] = None
    offline: Offline = False
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How rows become documents."""

    text_field: Annotated[
        list[str] | None,
        typer.Option(
            "--text-field",
            metavar="NAME",
            rich_help_panel=_INPUT,
            help="The field with the text; a.b.c goes into nested objects. Repeat it to join several.",
        ),
    ] = None
    id_field: Annotated[
        str | None,
        typer.Option(
            "--id-field",
            metavar="NAME",
            rich_help_panel=_INPUT,
            help="The field with the id. Default: the first of id, _id, docid, doc_id, pid.",
        ),
    ] = None

    def read_options(self, format: str | None, *, whole_files: bool = False) -> ReadOptions:
        """Give these as the formats take them."""
        from ..formats.documents import ReadOptions

        return ReadOptions(format, tuple(self.text_field or ()), self.id_field, whole_files)


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which documents come out, on which scale, and what is done with long ones."""

    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", "-k", metavar="N", min=1, rich_help_panel=_RANKING, help="The best N. Default: all."
        ),
    ] = None
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", metavar="X", rich_help_panel=_RANKING, help="None that score below X."),
    ] = None
    scores: Annotated[
        ScoreScale,
        typer.Option(
            "--scores",
            rich_help_panel=_RANKING,
            help="The scale: model as its configuration says, logit without activation, sigmoid from 0 to 1.",
        ),
    ] = "model"
    long: Annotated[
        LongPolicy,
        typer.Option(
            "--long",
            rich_help_panel=_RANKING,
            help="A document over the model's limit: cut it, score it in windows, or stop.",
        ),
    ] = "truncate"
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            "--chunk-tokens",
            metavar="TOKENS",
            min=1,
            rich_help_panel=_RANKING,
            help="The size of a window. Default: what the query leaves of the model's limit.",
        ),
    ] = None
    chunk_overlap: Annotated[
        int | None,
        typer.Option(
            "--chunk-overlap",
            metavar="TOKENS",
            min=0,
            rich_help_panel=_RANKING,
            help="How far windows overlap. Default: a quarter.",
        ),
    ] = None
    pool: Annotated[
        PoolName,
        typer.Option("--pool", rich_help_panel=_RANKING, help="How window scores make a document's score."),
    ] = "max"

    def rank_options(self) -> RankOptions:
        """Give these as the library takes them; raises UsageError for a combination that means nothing."""
        return RankOptions(**as_keywords(self))


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results go."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", rich_help_panel=_OUTPUT, help="Write here, whole or not at all."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class MannerOptions:
    """How much is said on stderr."""

    quiet: Annotated[
        bool, typer.Option("--quiet", "-Q", rich_help_panel=_MANNERS, help="Say nothing but errors.")
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", rich_help_panel=_MANNERS, help="Say what was chosen, and why.")
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", rich_help_panel=_MANNERS, help="Show the traceback of an error.")
    ] = False


Command = TypeVar("Command", bound=Callable[..., Any])


def with_option_groups(command: Command) -> Callable[..., Any]:
    """Spread the option groups among a command's parameters over its signature, for Typer to read."""
    # Not by get_type_hints, which makes Optional[Annotated[...]] of a None by default on Python 3.10.
    hints = inspect.get_annotations(command, eval_str=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> Any:
        filled = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**values, **filled)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = inspect.get_annotations(group, eval_str=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def as_keywords(options: Any) -> dict[str, Any]:
    """Give a group's values by their names, which are the library's own."""
    return {field.name: getattr(options, field.name) for field in fields(options)}
