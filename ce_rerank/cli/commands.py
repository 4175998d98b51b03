"""What every command is made of: how its options are declared and read, and what its help looks like.

Typer by itself reads values with Pydantic and draws help with Rich: 40 and 60 ms of a start that takes 100.
So a command reads its few kinds of values here, and its help is the plain text of Typer's own formatter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = ("batch", "bench", "doctor", "evaluate", "models", "rank", "serve")
MODEL = "Model and machine (or by environment variables: CE_RERANK_MODEL, ...)"
MESSAGES = "Messages"


def option(*names: str, help: str, panel: str = "Options", **settings: Any) -> Any:
    """Declare an option for `Annotated`; one of the model's panel can also come from the environment."""
    if panel == MODEL:
        settings["envvar"] = "CE_RERANK_" + names[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


class PlainHelp:
    """The help of a command or a group: plain text, an option a line, the options in their panels."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, among them those that Typer adds: --help, and those for completion."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if "get_runtime_param" not in vars(parameter):
                _read_by(_Reader(str, None), parameter)
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line shows after the command's name."""
        return ["[OPTIONS]", *(parameter.metavar for parameter in _arguments(self))]

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


class Command(PlainHelp, TyperCommand):
    """A command that reads its values without Pydantic."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        hints = inspect.get_annotations(self.callback) if self.callback else {}
        for parameter in self.params:
            hint, info = get_args(hints[parameter.name])[:2]
            kind = get_args(hint)[0] if NoneType in get_args(hint) else hint
            if kind is not bool:
                _read_by(_Reader(kind, info.min), parameter)


class DefaultCommandGroup(PlainHelp, TyperGroup):
    """A group in which `GROUP WORDS...` is `GROUP DEFAULT WORDS...`, unless the first word is a command."""

    default_command: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless a command, or an option of the group itself, comes first."""
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if not args and not self.no_args_is_help:
            args = [self.default_command]
        elif args and args[0] not in self.list_commands(ctx) and args[0] not in own:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class _Reader:
    """Reads the values of one parameter, in the place of Typer's own reader; see `Command`."""

    kind: Any
    minimum: float | None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a text as what the parameter takes, or several as they are; raise BadParameter otherwise."""
        if get_origin(self.kind) is list:
            return tuple(value or ())
        try:
            return None if value is None else self._read(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _read(self, value: Any) -> Any:
        if get_origin(self.kind) is Literal and value not in get_args(self.kind):
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, get_args(self.kind)))}.")
        if self.kind in (int, float):
            try:
                value = self.kind(value)
            except ValueError:
                raise ValueError(f"{value!r} is not a {'whole ' * (self.kind is int)}number.") from None
            if self.minimum is not None and value < self.minimum:
                raise ValueError(f"{value} is less than {self.minimum}.")
        return Path(value) if self.kind is Path else value


def _read_by(reader: _Reader, parameter: Any) -> None:
    parameter.get_runtime_param = lambda: reader


def _arguments(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


def _describe(parameter: Any) -> tuple[str, str]:
    """Return the names of a parameter with the values that it takes, and its help with the default."""
    if parameter.param_type_name == "argument":
        return parameter.metavar, parameter.help
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return names, parameter.help
    values = parameter.metavar or "|".join(get_args(parameter.get_runtime_param().kind))
    default = "" if parameter.default is None else f" [default: {parameter.default}]"
    return f"{names} {values}", (parameter.help or "") + default


def option_field(default: Any, *names: str, **settings: Any) -> Any:
    """Declare an option as a field of an option group; its name is the field's unless names are given."""
    return field(default=default, metadata={"names": names, "settings": settings})


def with_option_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Spread the option groups among a command's parameters over its signature, for Typer to read.

    A group is a dataclass whose fields are options: a command that declares `model: ModelOptions` has the
    options of its fields, in the help panel that the group names, and is called with the group filled in.
    """
    hints = inspect.get_annotations(command, eval_str=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=keyword))
            continue
        group_hints = inspect.get_annotations(groups[name], eval_str=True)
        for one in fields(groups[name]):
            hint = group_hints[one.name]
            if one.metadata:
                names = one.metadata["names"] or ("--" + one.name.replace("_", "-"),)
                hint = Annotated[hint, option(*names, panel=groups[name].panel, **one.metadata["settings"])]
            parameters.append(inspect.Parameter(one.name, keyword, default=one.default, annotation=hint))

    def run(**values: Any) -> Any:
        filled = {
            name: group(**{one.name: values.pop(one.name) for one in fields(group)})
            for name, group in groups.items()
        }
        return command(**values, **filled)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
