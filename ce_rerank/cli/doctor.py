"""`ce-rerank doctor`: what is here, what it can do, and whether ranking works."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import draw_message, show_messages, stdout_console
from .findings import Finding
from .options import MessageOptions, ModelOptions, as_keywords

if TYPE_CHECKING:
    from rich.console import Console

_UNAVAILABLE = 4
_AREA_WIDTH = 12
_MARKS = {"green": "✓", "yellow": "!", "red": "✗"}
_ASCII_MARKS = {"green": "+", "yellow": "!", "red": "x"}


def doctor(
    *,
    to: Annotated[Literal["table", "json"], typer.Option("--to", help="The format.")] = "table",
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Examine this machine, and rank three documents to see whether it works.

    Ends with 0 only when ranking works, else with 4.
    """
    from .checkup import examine

    console = stdout_console()
    with show_messages(messages) as activity:
        findings = list(examine(as_keywords(model), activity.stage))
    works = findings[-1].status != "red"
    if to == "json":
        report = {"ranking_works": works, "findings": [asdict(finding) for finding in findings]}
        json.dump(report, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        for finding in findings:
            _draw(console, finding)
        console.print()
        verdict = "Ranking works here." if works else "Ranking does not work here."
        draw_message(console, verdict, style="bold green" if works else "bold red")
    if not works:
        raise typer.Exit(_UNAVAILABLE)


def _draw(console: Console, finding: Finding) -> None:
    """Draw a finding and, below it, what to do about it."""
    marks = _ASCII_MARKS if console.options.ascii_only else _MARKS
    label = f"{marks[finding.status]} {finding.area}".ljust(_AREA_WIDTH + 2)
    draw_message(console, finding.text, label=label, label_style=finding.status)
    if finding.remedy:
        draw_message(console, finding.remedy, label=" " * len(label), style="bold")
