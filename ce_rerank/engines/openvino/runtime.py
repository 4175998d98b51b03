"""Load OpenVINO without its conversion tools, and without its telemetry.

`import openvino` also loads the tools, which takes a third of its time, and reports the import to Google
Analytics unless the user of this machine has refused.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import raise_if_interrupted

_TELEMETRY = "openvino_telemetry"
_TOOLS = "openvino.tools.ovc"
_NO_MEMORY = re.compile(r"bad.alloc|can't alloc|out of memory", re.IGNORECASE)

_lock = threading.Lock()


class CannotCompileError(Exception):
    """Why a checkpoint cannot be run in its compiled form; the message is the reason, as a clause.

    If the reason is in the model, it is remembered. A `passing` reason (a broken library, memory, the disk,
    wrong scores on this machine) is not remembered, and is logged as a warning.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def says_out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory; torch and OpenVINO have no class for it on the CPU."""
    # torch's class for other devices has it in its message, too.
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def last_line(error: Exception) -> str:
    """Return the last line of OpenVINO's error, which is the cause; before it are places in its source."""
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)


def load_runtime() -> Any:
    """Import `openvino`, for running models; it has no `convert_model` unless that was loaded before.

    Raises CannotCompileError if it is missing or broken.
    """
    with _lock, _hidden(_TELEMETRY, _TOOLS):
        try:
            import openvino
        except ImportError as error:
            raise_if_interrupted()
            raise CannotCompileError(f"OpenVINO cannot be loaded ({error})", passing=True) from error
    return openvino


def load_converter() -> Callable[..., Any]:
    """Import `openvino.convert_model`."""
    load_runtime()
    with _lock, _hidden(_TELEMETRY):
        from openvino.tools.ovc import convert_model
    return convert_model  # type: ignore[no-any-return]


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make modules that are not loaded yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]
