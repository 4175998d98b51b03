"""Names to checkpoints on disk: the hub's cache, a folder, the offline weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights as published, lying in an ordinary folder on this machine.

    `name` is what the user called it. `revision` is the commit of the hub, None for a folder. `notes` are facts
    that its user should know, as whole sentences.
    """

    name: str
    folder: Path
    source: Literal["hub", "folder", "offline"]
    revision: str | None = None
    notes: tuple[str, ...] = ()
