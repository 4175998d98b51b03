"""What a checkup finds, and how it asks a part that may take its process along."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one area, how that is, and what to do about it; `facts` are for programs."""

    area: str
    status: Status
    text: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def run_part(part: str, keywords: dict[str, Any], seconds: float) -> dict[str, Any] | str:
    """Run a part of `checkup_worker.py` in a process of its own; gives what it found, or why it failed."""
    command = [sys.executable, "-m", "ce_rerank.cli.checkup_worker", part, json.dumps(keywords)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, encoding="utf-8")
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} seconds."
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name}."
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        return lines[-1] if lines else f"the process ended with {done.returncode}, without a word."
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
