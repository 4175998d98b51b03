"""Where we print, and how: the two streams, messages, and what a long run shows of itself.

Rich takes a while to import, so nothing here does before something is drawn with it.
"""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from .excerpt import clean_text

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table

_BAR_WIDTH = 20
_WIDE_ENOUGH_FOR_A_BAR = 60


def stdout_console(file: IO[str] | None = None) -> Console:
    """Make the console that results are drawn on: standard output, or a file that they go to."""
    return _make_console(file=file)


def stderr_console() -> Console:
    """Make the console for all that is not a result."""
    return _make_console(stderr=True)


def _make_console(*, file: IO[str] | None = None, stderr: bool = False) -> Console:
    """Make a console that draws text as it is: no markup, no emoji codes, no guesses at what to colour.

    Rich itself sees to NO_COLOR, FORCE_COLOR, COLUMNS and to what is no terminal.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            """Leave a closed pipe to the application; Rich would exit with 1."""
            raise

    console = PipeConsole(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)
    if console.is_dumb_terminal:  # Rich takes each of them to be 80 columns wide.
        console.size = shutil.get_terminal_size()
    return console


def draw_error(console: Console, message: str, hint: str = "") -> None:
    """Say what went wrong and, on a line of its own, what to do about it."""
    draw_message(console, f"{message}\n{hint}", label="error:", label_style="bold red")


def draw_message(
    console: Console, message: str, *, label: str = "", label_style: str = "", style: str = ""
) -> None:
    """Draw a message of one line or several, behind a label if it has one.

    On a terminal it is wrapped between words and never inside one, so that a path can be copied. Anywhere
    else a line stays a line, for grep.
    """
    from rich.text import Text

    margin = " " * (len(label) + 1) if label else ""
    width = max(20, console.width - len(margin)) if console.file.isatty() else sys.maxsize
    lines = [
        wrapped for line in message.splitlines() for wrapped in _wrap_line(line, width, console.encoding)
    ]
    text = Text(f"\n{margin}".join(lines), style)
    console.print(Text.assemble((label, label_style), " ", text) if label else text, soft_wrap=True)


def _wrap_line(line: str, width: int, encoding: str) -> list[str]:
    """Wrap a line between its words; what it is indented by, as a command in a hint may be, is kept."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        clean_text(line, encoding),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def messages(*, quiet: bool = False, verbose: bool = False) -> Iterator[Activity]:
    """Say on stderr, as long as this lasts, what the library logs; gives what shows how far it is.

    `quiet` leaves nothing but errors, `verbose` adds what was chosen and why.
    """
    log = logging.getLogger("ce_rerank")
    level, propagate = log.level, log.propagate
    with Activity(enabled=not quiet) as activity:
        handler = ConsoleHandler(activity, verbose=verbose)
        log.setLevel(logging.ERROR if quiet else logging.INFO)
        log.propagate = False
        log.addHandler(handler)
        try:
            yield activity
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate


class ConsoleHandler(logging.Handler):
    """Says what the library logs: warnings always, the rest if `verbose`; a stage goes beside the spinner."""

    def __init__(self, activity: Activity, *, verbose: bool = False) -> None:
        super().__init__()
        self._activity = activity
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        """Draw one record."""
        try:
            message = record.getMessage()
            if getattr(record, "stage", False):
                self._activity.stage(message)
            if record.levelno >= logging.ERROR:
                draw_error(self._activity.console, message)
            elif record.levelno >= logging.WARNING:
                draw_message(self._activity.console, message, label="warning:", label_style="yellow")
            elif self._verbose:
                draw_message(self._activity.console, message, style="dim")
        except Exception:
            self.handleError(record)


class Activity:
    """Shows on a terminal what a run is at, once it has taken `delay_seconds`, and leaves no trace of itself.

    A spinner with the current stage; when a number of things to do is known, a bar, how many are done, how
    many a second, and the time left. It shows nothing where nobody watches, and nothing if not `enabled`.
    Any thread may call any method.
    """

    def __init__(
        self, console: Console | None = None, *, enabled: bool = True, delay_seconds: float = 0.5
    ) -> None:
        self._console = console
        self._stage = "Working"
        self._total: int | None = None
        self._done = 0
        self._since: float | None = None
        self._state = threading.Lock()  # held for a moment, never while drawing
        self._live: Live | None = None
        self._over = not enabled
        self._showing = threading.Lock()
        self._timer = threading.Timer(delay_seconds, self._show)
        self._timer.daemon = True

    @property
    def console(self) -> Console:
        """The console that it is shown on; what is printed there meanwhile appears above it."""
        with self._state:
            if self._console is None:
                self._console = stderr_console()
            return self._console

    def __enter__(self) -> Activity:
        file = self._console.file if self._console else sys.stderr
        if not self._over and file.isatty():
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stage(self, text: str) -> None:
        """Say what is being done now."""
        with self._state:
            self._stage = text
            if self._total is not None and self._done >= self._total:
                self._since = None

    def start(self, total: int | None = None, stage: str = "Scoring") -> None:
        """Begin to count towards `total`, or just to count when it is not known."""
        with self._state:
            self._stage, self._total, self._done, self._since = stage, total, 0, time.monotonic()

    def expect(self, total: int | None, stage: str) -> None:
        """Go on counting under another name, towards a total that was not known, or is known better now."""
        with self._state:
            self._total, self._stage = total, stage

    def advance(self, count: int = 1) -> None:
        """Count what has been done since the last time."""
        with self._state:
            self._done += count

    def stop(self) -> None:
        """Erase what is shown and show no more, before something else is drawn."""
        self._timer.cancel()
        with self._showing:
            self._over = True
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _show(self) -> None:
        with self._showing:
            # Under FORCE_COLOR Rich takes a file for a terminal; whether it is one was asked in __enter__.
            if self._over or not self.console.is_interactive:
                return
            from rich.live import Live
            from rich.spinner import Spinner

            spinner = Spinner("line" if self.console.options.ascii_only else "dots", style="cyan")
            # Results that are written to stdout meanwhile are not Rich's to catch.
            self._live = Live(
                console=self.console,
                get_renderable=lambda: self._draw(spinner),
                refresh_per_second=10,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)

    def _draw(self, spinner: Spinner) -> Table:
        """Make the line that is shown at this moment."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        console = self.console
        with self._state:
            stage, total, done, since = self._stage, self._total, self._done, self._since
        room = console.width - 2
        counts: list[ProgressBar | Text] = []
        if since is not None:
            # Of long documents the passages are counted, and they can be more than was foreseen.
            known = total if total and done <= total else None
            if known and console.width >= _WIDE_ENOUGH_FOR_A_BAR:
                counts.append(
                    ProgressBar(known, done, _BAR_WIDTH, complete_style="cyan", finished_style="cyan")
                )
                room -= _BAR_WIDTH + 1
            progress = describe_progress(done, known, time.monotonic() - since)
            counts.append(Text(progress))
            room -= len(progress) + 1
        label = Text(clean_text(stage, console.encoding))
        label.truncate(max(room, 1), overflow="crop" if console.options.ascii_only else "ellipsis")
        line = Table.grid(padding=(0, 1))
        line.add_row(spinner, label, *counts)
        return line


def describe_progress(done: int, total: int | None, elapsed_seconds: float) -> str:
    """Say how many are done, how many a second and, where it can be told, how long the rest will take."""
    parts = [f"{done:,}" if total is None else f"{done:,}/{total:,}"]
    if done and elapsed_seconds > 0:
        rate = done / elapsed_seconds
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if total is not None:
            minutes, seconds = divmod(round((total - done) / rate), 60)
            hours, minutes = divmod(minutes, 60)
            parts.append(
                f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
            )
    return "  ".join(parts)
