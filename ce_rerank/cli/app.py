"""The application: its commands, the default one, and the only place that turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from .. import __version__
from ..errors import (
    SIGNAL_CODES,
    CeRerankError,
    UnavailableError,
    UsageError,
    end_on_signals,
    exit_code_if_interrupted,
    from_system,
)
from .console import draw_error, make_console
from .options import COMMANDS, Command, DefaultCommandGroup, with_option_groups

_NAME = "ce-rerank"
_INTERRUPTED = SIGNAL_CODES[signal.SIGINT]


class Application(DefaultCommandGroup):
    """All commands, and their exit codes; `ce-rerank QUERY ...` is `ce-rerank rank QUERY ...`."""

    default_command = "rank"

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands; each is in the module of its name."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return a command. Its module is imported only now, so that no command waits for another's."""
        if name in COMMANDS and name not in self.commands:
            self.commands[name] = _load_command(name)
        return super().get_command(ctx, name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Without any, the help goes to stderr, as there are no results."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command line; in standalone mode exit with its code, else return it."""
        args = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(args, standalone_mode=False, **extra) or 0
            sys.stdout.flush()  # now, so that a failure can be reported
        except (KeyboardInterrupt, typer.Abort):
            code = _INTERRUPTED
        except BrokenPipeError:
            code = 0
        except SystemExit as end:
            # Where the reader of our output has closed the pipe, Typer and Rich exit with 1.
            code = 0 if isinstance(end.__context__, BrokenPipeError) else end.code or 0
        except Exception as error:
            if "--debug" in args:
                traceback.print_exc()
            # A library may have made another exception of the one that a signal raised.
            code = exit_code_if_interrupted() or _report(error)
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    name=_NAME,
    cls=Application,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    help="Rank documents against a query with a cross-encoder.\n\n"
    "`ce-rerank QUERY DOCUMENT...` ranks its arguments, `ce-rerank QUERY -f notes.jsonl` a file, and "
    "`... | ce-rerank QUERY` a pipe. `ce-rerank COMMAND --help` shows the options of a command.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{_NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Read the options of no command."""


def _load_command(name: str) -> Any:
    """Import a command's module and make its function a Typer command."""
    member = getattr(import_module(f".{name}", __package__), name)
    if not isinstance(member, typer.Typer):
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name, cls=Command)(with_option_groups(member))
        member = single
    command = typer.main.get_command(member)
    command.name = name
    return command


def _report(error: Exception) -> int:
    """Print an error on stderr, and return its exit code."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f"See {context.command_path} --help." if context else ""
        error = UsageError(error.format_message(), hint=hint)
    elif isinstance(error, MemoryError):
        hint = "Give a smaller --batch-tokens, or less input."
        error = UnavailableError("There is not enough memory.", hint=hint)
    elif isinstance(error, OSError):
        error = from_system(error)
    elif not isinstance(error, CeRerankError):
        hint = "This is a fault of ce-rerank. Run it again with --debug, and report what it prints."
        error = CeRerankError(f"{type(error).__name__}: {error}", hint=hint)
    draw_error(make_console(stderr=True), error.message, error.hint)
    return error.exit_code


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    if None in (sys.stdin, sys.stdout, sys.stderr):  # closed (`>&-`): an opened file would take its place
        print("error: stdin, stdout or stderr is closed.", file=sys.stderr)
        os._exit(UnavailableError.exit_code)
    if sys.platform != "win32":
        os.set_blocking(sys.stdout.fileno(), True)  # else a pipe that is full would be an error
    # Whatever the locale is, as results that are written as bytes.
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    # SIGTERM must remove unfinished files, as SIGINT does.
    end_on_signals()
    code: Any = _INTERRUPTED
    with suppress(KeyboardInterrupt):
        code = app(prog_name=_NAME, standalone_mode=False)
    # Exit at once: the usual clean-up of libraries takes a sixth of a second.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)
