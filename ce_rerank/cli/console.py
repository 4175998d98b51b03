"""How we print: the two streams, messages, progress, and text that is safe on a terminal.

Rich is imported only when something is drawn: it takes a tenth of the start.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import textwrap
import threading
import time
import unicodedata
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from .options import MessageOptions

log = logging.getLogger("ce_rerank")

# What acts on a terminal, apart from line ends and tabs: C0, C1, and what reorders text (bidi).
_ACTIVE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"


def clean_text(text: str) -> str:
    """Return a text that is safe to print on one line.

    White space, tabs and line ends become single spaces, control characters and halves of characters U+FFFD.
    What reorders or hides text (direction overrides, soft hyphens) is left out.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text.isprintable():
        stand_ins = {"Cc": "\ufffd", "Cs": "\ufffd", "Cf": ""}
        # Joiners are a part of some emoji, and of Persian words.
        text = "".join(
            one if one in "\u200c\u200d" else stand_ins.get(unicodedata.category(one), one) for one in text
        )
    return text


def make_console(file: IO[str] | None = None, *, stderr: bool = False) -> Console:
    """Return a console on stdout, stderr or a file: no markup, no emoji codes, no automatic colours.

    Rich itself heeds NO_COLOR, FORCE_COLOR, COLUMNS and whether it is on a terminal.
    """
    from rich.console import Console

    return Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)


def draw_plainly(console: Console, drawn: RenderableType) -> None:
    """Draw a table or a text, without spaces at the ends of its lines."""
    with console.capture() as captured:
        console.print(drawn)
    console.out("\n".join(map(str.rstrip, captured.get().splitlines())))


def draw_error(console: Console, message: str, hint: str = "") -> None:
    """Draw what went wrong and, on lines of its own, what to do about it."""
    draw_message(console, message, hint, label="error:", label_style="bold red")


def draw_message(
    console: Console, message: str, hint: str = "", *, label: str = "", label_style: str = "", style: str = ""
) -> None:
    """Draw a message, and a hint of one line or several, behind a label if it has one.

    On a terminal it is wrapped between words and never inside one, so that a path can be copied. Anywhere
    else a line stays a line, for grep.
    """
    from rich.text import Text

    margin = " " * (len(label) + 1) if label else ""
    width = max(20, console.width - len(margin)) if console.file.isatty() else sys.maxsize
    lines: list[str] = []
    for line in (message.replace("\n", " "), *hint.split("\n")):
        indent = " " * (len(line) - len(line.lstrip()))  # a command in a hint may be indented
        lines += textwrap.wrap(
            clean_text(line), width, initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    text = Text(f"\n{margin}".join(lines), style)
    console.print(Text.assemble((label, label_style), " ", text) if label else text, soft_wrap=True)


class Activity(logging.Handler):
    """Prints on stderr what the library logs, in a `with` block; `messages` says how much.

    Below that it shows on a terminal what a run is doing, once it has taken `delay_seconds`, and erases it at
    the end: a spinner with the current stage; while things are counted, how many are done, how many a second
    and, when their number is known, the time left. Any thread may call any method.
    """

    def __init__(self, messages: MessageOptions, *, delay_seconds: float = 0.5) -> None:
        super().__init__(logging.ERROR if messages.quiet else logging.INFO)
        self._verbose = messages.verbose
        self._stage = self._counted = "Working"
        self._total: int | None = None
        self._done = 0
        self._since: float | None = None
        self._is_over = messages.quiet
        self._console: Console | None = None
        self._live: Live | None = None
        self._lock = threading.RLock()  # of the console and what is shown on it
        self._timer = threading.Timer(delay_seconds, self._show)
        self._timer.daemon = True

    @property
    def console(self) -> Console:
        """The console; what is printed there appears above the progress."""
        with self._lock:
            if self._console is None:
                self._console = make_console(stderr=True)
            return self._console

    def __enter__(self) -> Activity:
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(self)
        # Rich alone would take a file for a terminal under FORCE_COLOR.
        if not self._is_over and sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        log.removeHandler(self)
        log.propagate = True
        log.setLevel(logging.NOTSET)

    def emit(self, record: logging.LogRecord) -> None:
        """Draw a message of the library. Rich's own handler wraps lines in a pipe, and breaks paths."""
        message = record.getMessage()
        if getattr(record, "stage", False):
            self.stage(message)
        if record.levelno >= logging.ERROR:
            draw_error(self.console, message)
        elif record.levelno >= logging.WARNING:
            draw_message(self.console, message, label="warning:", label_style="yellow")
        elif self._verbose:
            draw_message(self.console, message, style="dim")

    def stage(self, text: str) -> None:
        """Show what is being done now."""
        self._stage = text
        if self._total is not None and self._done >= self._total:
            self._since = None

    def start(self, total: int | None = None, stage: str = "Scoring") -> None:
        """Begin to count towards `total`, or just to count when it is not known."""
        self._done, self._since = 0, time.monotonic()
        self.expect(total, stage)

    def expect(self, total: int | None, stage: str) -> None:
        """Change the total and the stage, when more is known."""
        self._stage = self._counted = stage
        self._total = total

    def advance(self, count: int = 1) -> None:
        """Count `count` more things as done."""
        self._done += count
        self._stage = self._counted  # another stage, such as checking the model, is over

    def stop(self) -> None:
        """Erase what is shown and show nothing more; may be called again."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._live is not None:
                self._live.stop()
                self._live = None

    def stdout(self, format: str) -> BinaryIO:
        """Return stdout for results in `format`: on a terminal a stream that is safe to look at.

        The first result there erases the progress, which would be on the same line. A table is drawn by Rich.
        """
        if format == "table" or not sys.stdout.isatty():
            return sys.stdout.buffer
        return TerminalStream(self)  # type: ignore[return-value]

    def _show(self) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        with self._lock:
            if self._is_over or not self.console.is_interactive:
                return
            self._live = Live(
                Spinner("dots", self, style="cyan"), console=self.console, transient=True,
                refresh_per_second=10, redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()

    def __rich__(self) -> Text:
        from rich.text import Text

        parts = [clean_text(self._stage)]
        if self._since is not None:
            # With passages, more may be counted than was expected.
            done, total = self._done, self._total if self._total and self._done <= self._total else None
            parts.append(f"{done:,}" if total is None else f"{done:,}/{total:,}")
            elapsed_seconds = time.monotonic() - self._since
            if done and elapsed_seconds > 0:
                rate = done / elapsed_seconds
                parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
                if total is not None:
                    parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
        return Text("  ".join(parts), no_wrap=True, overflow="crop")


class TerminalStream(io.RawIOBase):
    r"""Standard output on a terminal, for results that hold any text.

    What acts on a terminal is written as `\u009b`, which in JSON means the same.
    """

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def writable(self) -> bool:
        """Return that this can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Write all of the data, which is whole characters."""
        self._activity.stop()
        text = bytes(data).decode(errors="replace")
        shown = re.sub(_ACTIVE, lambda found: f"\\u{ord(found[0]):04x}", text)
        sys.stdout.buffer.write(shown.encode())
        sys.stdout.buffer.flush()
        return len(data)
