from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from ce_rerank.cli.console import Activity, clean_text, draw_error, make_console
from ce_rerank.cli.options import MessageOptions

log = logging.getLogger("ce_rerank")


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


class Terminal(io.StringIO):
    buffer = io.BytesIO()

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr; not a fixture, since pytest puts its own there after those."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    return terminal


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" a\t\tb\r\n\n c\u2028d\u3000e\u00a0f ", "a b c d e f"),
        ("\x1b[31mred\x1b[0m \x07 \x7f", "\ufffd[31mred\ufffd[0m \ufffd \ufffd"),
        ("\x9b31mred", "\ufffd31mred"),
        ("user\u202egnp.exe\u2069 a\u200bb so\u00adft \ufeffx", "usergnp.exe ab soft x"),
        ("a\ud83db", "a\ufffdb"),
        ("👨\u200d👩\u200d👧 می\u200cخواهم", "👨\u200d👩\u200d👧 می\u200cخواهم"),
        ("cafe\u0301", "café"),
    ],
)
def test_a_text_is_made_one_line_that_acts_on_nothing(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(st.text())
def test_nothing_that_is_cleaned_controls_the_terminal(text: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", clean_text(text))


def test_a_terminal_wraps_between_words_and_never_inside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    draw_error(make_console(stderr=True), "word " * 20 + "end.", f"See /{'long/' * 20}path.")
    drawn = terminal.getvalue().replace("\x1b[1;31m", "").replace("\x1b[0m", "")
    assert drawn == (
        "error: " + ("word " * 14).strip() + "\n"
        "       " + "word " * 6 + "end.\n"
        "       See\n"
        f"       /{'long/' * 20}path.\n"
    )


def test_in_a_pipe_a_line_stays_a_line_and_a_hint_keeps_its_indentation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw_error(
        make_console(stderr=True),
        "Out\rof\nreach." * 20,
        "What works:\n  --offline\n\n  a [bold]folder \x1b[2J",
    )
    message, *hint = capsys.readouterr().err.splitlines()
    assert message == "error: " + "Out of reach." * 20
    assert hint == ["       What works:", "         --offline", "         a [bold]folder \ufffd[2J"]


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (MessageOptions(), "warning: 3 were cut.\nerror: The disk is full.\n"),
        (MessageOptions(verbose=True), "Loading\nwarning: 3 were cut.\nerror: The disk is full.\n"),
        (MessageOptions(quiet=True, verbose=True), "error: The disk is full.\n"),
    ],
)
def test_how_much_of_the_librarys_log_is_printed(
    capsys: pytest.CaptureFixture[str], options: MessageOptions, printed: str
) -> None:
    with Activity(options):
        log.debug("A detail.")
        log.info("Loading", extra={"stage": True})
        log.warning("%d were cut.", 3)
        log.error("The disk is full.")
    assert capsys.readouterr() == ("", printed)


def test_after_the_delay_the_stage_is_shown_and_in_the_end_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with Activity(MessageOptions(), delay_seconds=0.01) as activity:
        activity.stage("Loading [a model]\x1b[2J")
        wait_until(lambda: "Loading [a model]\ufffd[2J" in terminal.getvalue())
        log.info("Compiling", extra={"stage": True})
        log.warning("A line above it.")
        wait_until(lambda: "Compiling" in terminal.getvalue())
        activity.stop()
        drawn = terminal.getvalue()
        activity.stage("Never seen")
        time.sleep(0.25)
    assert terminal.getvalue() == drawn
    assert "warning:\x1b[0m A line above it.\n" in drawn
    assert drawn.endswith("\x1b[2K")
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor comes back


def test_what_is_counted_is_shown_as_far_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)

    def wait_for(text: str) -> None:
        wait_until(lambda: text in terminal.getvalue())

    with Activity(MessageOptions(), delay_seconds=0.01) as activity:
        activity.start()
        activity.advance(1_234)
        wait_for("Scoring  1,234  ")
        activity.expect(2_000, "Scoring, 2 queries done")
        wait_for("Scoring, 2 queries done  1,234/2,000  ")
        activity.stage("Checking the model")
        wait_for("Checking the model")
        activity.advance(766)
        wait_for("done  2,000/2,000")
        activity.advance()  # more than was foreseen
        wait_for("done  2,001  ")


@pytest.mark.parametrize(
    ("done", "total", "seconds", "described"),
    [
        (0, 10, 1, "0/10"),
        (6_000, 12_000, 60, "6,000/12,000  100/s  0:01:00 left"),
        (6, None, 4, "6  1.5/s"),
    ],
)
def test_progress_is_a_count_a_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, done: int, total: int | None, seconds: float, described: str
) -> None:
    activity, moments = Activity(MessageOptions()), iter([0, seconds])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    activity.start(total)
    activity.advance(done)
    assert str(activity.__rich__()) == f"Scoring  {described}"


@pytest.mark.parametrize("reason", ["no terminal", "quiet", "dumb terminal", "a short run"])
def test_where_nobody_watches_nothing_is_drawn(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb" if reason == "dumb terminal" else "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO() if reason == "no terminal" else Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    delay_seconds = 9 if reason == "a short run" else 0.01
    with Activity(MessageOptions(quiet=reason == "quiet"), delay_seconds=delay_seconds) as activity:
        activity.start(total=10)
        time.sleep(0.25)
    assert file.getvalue() == ""


def test_results_on_a_terminal_come_after_the_progress_and_act_on_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal, stdout = open_terminal(monkeypatch), Terminal()
    stdout.buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with Activity(MessageOptions(), delay_seconds=0.01) as activity:
        wait_until(lambda: "Working" in terminal.getvalue())
        activity.stdout("jsonl").write('"a\x9b31m\u202eb 茶"\n'.encode())
        assert terminal.getvalue().endswith("\x1b[2K")
    assert stdout.buffer.getvalue().decode() == '"a\\u009b31m\\u202eb 茶"\n'
