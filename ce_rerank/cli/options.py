"""What every command is made of: options in groups, values read without Pydantic, help without Rich.

Typer by itself reads values with Pydantic and draws help with Rich: 40 and 60 ms of a start that takes 100.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import UsageError
from ..types import EngineName, LongPolicy, PoolName, Precision, RankOptions, ScoreScale

if TYPE_CHECKING:
    from ..formats.documents import ReadOptions

COMMANDS = ("batch", "bench", "doctor", "evaluate", "models", "rank", "serve")
INPUT, RANKING, OUTPUT, MESSAGES = "Input", "Ranking", "Output", "Messages"
MODEL = "Model and machine (or by environment variables: CE_RERANK_MODEL, ...)"
OnError = Literal["stop", "skip"]

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def option(*names: str, help: str, panel: str = "Options", **settings: Any) -> Any:
    """Declare an option for `Annotated`; one of the model's panel can also come from the environment."""
    if panel == MODEL:
        settings["envvar"] = "CE_RERANK_" + names[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


def option_field(default: Any, *names: str, **settings: Any) -> Any:
    """Declare an option as a field of an option group; its name is the field's unless names are given."""
    return field(default=default, metadata={"names": names, "settings": settings})


def with_option_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that Typer can read: each option of a group is a parameter of its own.

    A group is a dataclass whose fields are options: a command that declares `model: ModelOptions` has the
    options of its fields, in the help panel that the group names, and is called with the group filled in.
    """
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter.replace(kind=_KEYWORD))
            continue
        groups[name] = group
        hints = get_type_hints(group, include_extras=True)
        for one in fields(group):
            hint = hints[one.name]
            if one.metadata:
                names = one.metadata["names"] or ("--" + one.name.replace("_", "-"),)
                hint = Annotated[hint, option(*names, panel=groups[name].panel, **one.metadata["settings"])]
            parameters.append(inspect.Parameter(one.name, _KEYWORD, default=one.default, annotation=hint))

    def run(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        return command(**values)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


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


@dataclass(frozen=True)
class FetchOptions:
    """What may be fetched of a model; the fields have the names of `resolve_checkpoint`'s arguments."""

    panel: ClassVar = MODEL
    revision: str | None = option_field(None, metavar="REV", help="The branch, tag or commit of a hub model.")
    offline: bool = option_field(False, help="Never use the network.")
    trust_remote_code: bool = option_field(False, help="Run Python code that comes with the model.")
    allow_pickle: bool = option_field(False, help="Load pickled weights, which can run any code.")


@dataclass(frozen=True)
class RunOptions:
    """Which model ranks, and how."""

    panel: ClassVar = MODEL
    model: str | None = option_field(
        None, "--model", "-m", metavar="NAME|PATH|URL",
        help="A hub model, its short name, a folder, or a server. "
        "Default: offline if installed, else minilm-l6.",
    )  # fmt: skip
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


@dataclass(frozen=True)
class ModelOptions(FetchOptions, RunOptions):
    """Which model ranks, and how; the fields have the names of `Reranker`'s arguments."""


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
            tuple(self.text_field or ()),
            self.id_field,
            format=format,
            whole_files=whole_files,
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


class _ValueReader:
    """Reads the value of any parameter, in the place of the reader that Typer makes with Pydantic."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a text, or each of several, as what the parameter takes; raise BadParameter otherwise."""
        kind = param.type_descriptor.annotation
        if get_origin(kind) is list:
            return tuple(_read_value(text, get_args(kind)[0], param) for text in value or ())
        return None if value is None else _read_value(value, kind, param)


def _read_value(text: str, kind: Any, param: Any) -> Any:
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, get_args(kind)))}.")
    if kind is bool:  # from the environment
        if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise typer.BadParameter(f"{text!r} is neither true nor false.")
        return text.lower() in ("1", "true", "yes", "on")
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a {'whole ' * (kind is int)}number.") from None
        if param.min is not None and number < param.min:
            raise typer.BadParameter(f"{number} is less than {param.min}.")
        if param.max is not None and number > param.max:
            raise typer.BadParameter(f"{number} is more than {param.max}.")
        return number
    return Path(text) if kind is Path else text


class PlainCommand:
    """The half of a command or a group that is ours: how values are read, and help as plain text."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, among them those that Typer adds: --help, and those for completion."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter._runtime_param = _ValueReader()
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line shows after the command's name."""
        own: Any = self
        return ["[OPTIONS]", *(one.metavar for one in own.params if one.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, each panel of options and, for a group, its commands."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            panel = "Arguments"
            if parameter.param_type_name == "option":
                panel = parameter.rich_help_panel or (MESSAGES if MESSAGES in panels else "Options")
            panels.setdefault(panel, []).append(_describe(parameter))
        if isinstance(self, TyperGroup):
            commands: list[tuple[str, Any]] = [
                (name, self.get_command(ctx, name)) for name in self.list_commands(ctx)
            ]
            panels["Commands"] = [(name, command.get_short_help_str(200)) for name, command in commands]
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=26)


def _describe(parameter: Any) -> tuple[str, str]:
    """Return the names of a parameter with the values that it takes, and its help with the default."""
    if parameter.param_type_name == "argument":
        return parameter.metavar, parameter.help
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return names, parameter.help
    values = parameter.metavar or "|".join(get_args(parameter.type_descriptor.annotation))
    default = "" if parameter.default is None else f" [default: {parameter.default}]"
    return f"{names} {values}", parameter.help + default


class Command(PlainCommand, TyperCommand):
    """A command of ours."""


class DefaultCommandGroup(PlainCommand, TyperGroup):
    """A group in which `GROUP WORDS...` is `GROUP DEFAULT WORDS...`, unless the first word is a command."""

    default_command: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless a command, or an option of the group itself, comes first."""
        own = {name for option in self.get_params(ctx) for name in option.opts}
        is_named = bool(args) and args[0] in {*own, *self.list_commands(ctx)}
        is_being_typed = not args and ctx.resilient_parsing  # for the shell to complete
        if not is_named and not is_being_typed:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)
