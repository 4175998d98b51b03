from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from waiting import wait_until

from ce_rerank.cli.console import (
    Activity,
    clean_text,
    draw_error,
    draw_message,
    show_messages,
    stderr_console,
    stdout_console,
)
from ce_rerank.cli.options import MessageOptions

log = logging.getLogger("ce_rerank")


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr; not a fixture, since pytest puts its own there after those."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


# What is safe to print


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" a\t\tb\r\n\n c\u2028d\u3000e\u00a0f ", "a b c d e f"),
        ("\x1b[31mred\x1b[0m \x07 \x7f", "␛[31mred␛[0m ␇ ␡"),
        ("\x9b31mred", "\ufffd31mred"),
        ("user\u202egnp.exe\u2069 a\u200bb so\u00adft \ufeffx", "usergnp.exe ab soft x"),
        ("a\ud83db", "a\ufffdb"),
        ("👨\u200d👩\u200d👧 می\u200cخواهم", "👨\u200d👩\u200d👧 می\u200cخواهم"),
        ("cafe\u0301", "café"),
    ],
)
def test_a_text_is_made_one_line_that_acts_on_nothing(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_what_the_encoding_lacks_becomes_question_marks() -> None:
    assert clean_text("茶 é …", "latin-1") == "? é ?"
    assert clean_text("茶 é …", "utf-8") == "茶 é …"


@given(st.text())
def test_nothing_that_is_cleaned_controls_the_terminal(text: str) -> None:
    cleaned = clean_text(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", cleaned)
    assert cleaned.isascii() or clean_text(text, "ascii").isascii()


# Consoles


def test_colour_is_for_terminals() -> None:
    assert stdout_console(io.StringIO()).color_system is None
    assert stdout_console(Terminal()).color_system is not None


def test_force_color_colours_a_pipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert stdout_console(io.StringIO()).color_system is not None


def test_no_color_takes_the_colour_and_leaves_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    draw_error(stdout_console(terminal), "Broken.")
    assert terminal.getvalue() == "\x1b[1merror:\x1b[0m Broken.\n"


def test_columns_sets_the_width_of_a_pipe_and_of_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert stdout_console(io.StringIO()).width == 123
    monkeypatch.setenv("TERM", "dumb")
    dumb = stdout_console(Terminal())
    assert dumb.width == 123
    assert dumb.color_system is None


def test_a_closed_pipe_is_the_applications_to_handle() -> None:
    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        stdout_console(ClosedPipe()).print("a line")


# Messages


def test_where_nobody_watches_a_line_is_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    draw_error(stderr_console(), "word " * 99 + "end.", "hint " * 99 + "end.")
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: " + "word " * 99 + "end."
    assert hint == "       " + "hint " * 99 + "end."


def test_a_terminal_wraps_between_words_and_never_inside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    draw_error(stderr_console(), "word " * 20 + "end.", f"See /{'long/' * 20}path.")
    drawn = terminal.getvalue().replace("\x1b[1;31m", "").replace("\x1b[0m", "")
    assert drawn == (
        "error: " + ("word " * 14).strip() + "\n"
        "       " + "word " * 6 + "end.\n"
        "       See\n"
        f"       /{'long/' * 20}path.\n"
    )


def test_a_hint_may_have_lines_and_keeps_what_they_are_indented_by(
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw_error(stderr_console(), "Out\rof\nreach.", "What works:\n  --offline\n\n  a folder")
    assert capsys.readouterr() == (
        "", "error: Out of reach.\n       What works:\n         --offline\n         a folder\n"
    )  # fmt: skip


def test_messages_hold_no_markup_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    draw_message(stderr_console(), "[bold]a[/bold] :tea: \x1b[2J [/nothing]")
    assert capsys.readouterr().err == "[bold]a[/bold] :tea: ␛[2J [/nothing]\n"


# What the library logs


def test_a_warning_is_always_said(capsys: pytest.CaptureFixture[str]) -> None:
    with show_messages(MessageOptions()):
        log.warning("%d documents were cut.", 3)
        log.info("The device is cpu.")
    assert capsys.readouterr() == ("", "warning: 3 documents were cut.\n")


def test_verbose_says_what_was_chosen_and_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with show_messages(MessageOptions(verbose=True)):
        log.info("The device is cpu.")
        log.info("Loading a model", extra={"stage": True})
        log.debug("A detail.")
    assert capsys.readouterr().err == "The device is cpu.\nLoading a model\n"


def test_quiet_says_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    with show_messages(MessageOptions(quiet=True, verbose=True)):
        log.warning("3 documents were cut.")
        log.error("The disk is full.")
    assert capsys.readouterr().err == "error: The disk is full.\n"


def test_afterwards_the_logger_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = (log.level, log.propagate, list(log.handlers))
    with pytest.raises(ZeroDivisionError), show_messages(MessageOptions()):
        1 / 0  # noqa: B018
    assert (log.level, log.propagate, list(log.handlers)) == before


# Activity


class Screen:
    """A console on a terminal, and what was drawn on it."""

    def __init__(self, **options: object) -> None:
        self.file = Terminal()
        self.console = Console(file=self.file, **options)  # type: ignore[arg-type]

    @property
    def drawn(self) -> str:
        return self.file.getvalue()


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_a_short_run_draws_nothing(screen: Screen) -> None:
    with Activity(screen.console) as activity:
        activity.stage("Loading")
        activity.start(total=2)
        activity.advance(2)
    assert screen.drawn == ""


def test_after_the_delay_the_stage_is_shown_and_in_the_end_erased(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.stage("Loading [a model]\x1b[2J")
        wait_until(lambda: "Loading [a model]␛[2J" in screen.drawn)
        activity.stage("Compiling")
        wait_until(lambda: "Compiling" in screen.drawn)
    assert screen.drawn.endswith("\x1b[2K")
    assert screen.drawn.count("\x1b[?25l") == screen.drawn.count("\x1b[?25h") == 1  # the cursor comes back


def test_a_known_total_has_a_rate_and_the_time_left(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start(total=12_000)
        wait_until(lambda: "Scoring" in screen.drawn)
        activity.advance(3_000)
        wait_until(lambda: "3,000/12,000" in screen.drawn)
        wait_until(lambda: "/s  0:0" in screen.drawn)
    assert " left" in screen.drawn


def test_an_unknown_total_is_counted(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start(stage="Reading")
        activity.advance(1_234)
        wait_until(lambda: "1,234" in screen.drawn)
    assert "Reading" in screen.drawn
    assert "left" not in screen.drawn


def test_more_than_was_foreseen_is_counted(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start(total=3)
        activity.advance(7)
        wait_until(lambda: "7  " in screen.drawn)
    assert "/3" not in screen.drawn


def test_a_total_may_become_known_and_change_on_the_way(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start()
        activity.advance(7)
        wait_until(lambda: "Scoring  7" in screen.drawn)
        activity.expect(20, "Scoring, 2 queries done")
        wait_until(lambda: "7/20" in screen.drawn)
        activity.expect(7, "Scoring, 3 queries done")
        wait_until(lambda: "7/7" in screen.drawn)
    assert "3 queries done" in screen.drawn


def test_a_stage_amid_the_counting_is_over_when_counting_goes_on(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start(total=3)
        activity.stage("Checking the model")
        wait_until(lambda: "Checking the model" in screen.drawn)
        activity.advance()
        wait_until(lambda: "Scoring  1/3" in screen.drawn)


def test_a_narrow_terminal_has_one_line_of_it() -> None:
    screen = Screen(width=40)
    with Activity(screen.console, delay_seconds=0.01) as activity:
        activity.start(total=12_000, stage="Compiling a model with a long name")
        activity.advance(6_000)
        wait_until(lambda: "6,000/12,000" in screen.drawn)
    frames = re.split(r"[\r\n]", re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", screen.drawn))
    assert max(map(len, frames)) == 40


def test_warnings_appear_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with show_messages(MessageOptions()) as activity:
        activity.stage("Loading")
        wait_until(lambda: "Loading" in terminal.getvalue())
        log.info("Scoring", extra={"stage": True})
        log.warning("3 documents were cut.")
        wait_until(lambda: "Scoring" in terminal.getvalue())
    assert "warning:\x1b[0m 3 documents were cut.\n" in terminal.getvalue()


def test_after_stop_nothing_more_is_drawn(screen: Screen) -> None:
    with Activity(screen.console, delay_seconds=0.01) as activity:
        wait_until(lambda: "Working" in screen.drawn)
        activity.stop()
        drawn = screen.drawn
        activity.stage("Never seen")
        time.sleep(0.25)
    assert screen.drawn == drawn


@pytest.mark.parametrize("reason", ["no terminal", "quiet", "dumb terminal"])
def test_where_nobody_watches_nothing_is_drawn(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb" if reason == "dumb terminal" else "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO() if reason == "no terminal" else Terminal()
    with Activity(Console(file=file), enabled=reason != "quiet", delay_seconds=0.01) as activity:
        activity.start(total=10)
        activity.advance(5)
        time.sleep(0.25)
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("format", "written"),
    [("jsonl", '"a\\u009b31m\\u202eb 茶"\n'), ("text", '"a\ufffd31mb 茶"\n'), ("csv", '"a\ufffd31mb 茶"\n')],
)
def test_results_on_a_terminal_come_after_the_progress_and_act_on_nothing(
    monkeypatch: pytest.MonkeyPatch, screen: Screen, format: str, written: str
) -> None:
    class BinaryTerminal(Terminal):
        buffer = io.BytesIO()

    terminal = BinaryTerminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    data = '"a\x9b31m\u202eb 茶"\n'.encode()
    with Activity(screen.console, delay_seconds=0.01) as activity:
        wait_until(lambda: "Working" in screen.drawn)
        stream = activity.stdout(format)
        for place in range(0, len(data), 3):
            stream.write(data[place : place + 3])
        assert screen.drawn.endswith("\x1b[2K")
    assert terminal.buffer.getvalue().decode() == written
    terminal.buffer.truncate(0)
    terminal.buffer.seek(0)


def test_a_terminal_without_utf8_gets_plain_signs() -> None:
    stream = io.BytesIO()

    class AsciiTerminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    file = AsciiTerminal(stream, encoding="ascii", write_through=True)
    with Activity(Console(file=file, width=80), delay_seconds=0.01) as activity:
        activity.start(total=10, stage="Scoring 茶 " + "a" * 99)
        activity.advance(5)
        wait_until(lambda: b"5/10" in stream.getvalue())
    assert b"Scoring ? aaa" in stream.getvalue()
