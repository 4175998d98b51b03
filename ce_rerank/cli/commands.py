"""What every command is made of: options in groups, values read without Pydantic, help without Rich.

Typer by itself reads values with Pydantic and draws help with Rich: 40 and 60 ms of a start that takes 100.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from pathlib import Path
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
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += _spread(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        return command(**values)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _spread(group: Any) -> Iterator[inspect.Parameter]:
    """Yield a parameter for each option of a group."""
    hints = inspect.get_annotations(group, eval_str=True)
    for one in fields(group):
        hint = hints[one.name]
        if one.metadata:
            names = one.metadata["names"] or ("--" + one.name.replace("_", "-"),)
            hint = Annotated[hint, option(*names, panel=group.panel, **one.metadata["settings"])]
        yield inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hint
        )


class _ValueReader:
    """Reads the value of any parameter, in the place of the reader that Typer makes with Pydantic."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a text, or each of several, as what the parameter takes; raise BadParameter otherwise."""
        kind = param.type_descriptor.annotation
        try:
            if get_origin(kind) is list:
                return tuple(_read_value(text, get_args(kind)[0], param) for text in value or ())
            return None if value is None else _read_value(value, kind, param)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None


def _read_value(text: str, kind: Any, param: Any) -> Any:
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise ValueError(f"{text!r} is not one of {', '.join(map(repr, get_args(kind)))}.")
    if kind is bool:  # from the environment
        if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ValueError(f"{text!r} is neither true nor false.")
        return text.lower() in ("1", "true", "yes", "on")
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a {'whole ' * (kind is int)}number.") from None
        if param.min is not None and number < param.min:
            raise ValueError(f"{number} is less than {param.min}.")
        if param.max is not None and number > param.max:
            raise ValueError(f"{number} is more than {param.max}.")
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
