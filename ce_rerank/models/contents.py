"""Names of before, for those who still use them."""

from pathlib import Path

from .checkpoint import LEGAL_NAMES as LEGAL_NAMES
from .checkpoint import Checkpoint
from .checkpoint import select_files as select_files


def list_files(folder: Path) -> list[str]:
    """Return the files of a checkpoint."""
    return list(Checkpoint("", folder, "folder").files)


def list_code(folder: Path) -> list[str]:
    """Return the code of a checkpoint."""
    return Checkpoint("", folder, "folder").code


def read_modules(folder: Path) -> list[dict[str, object]]:
    """Return the modules of a checkpoint."""
    return Checkpoint("", folder, "folder").modules
