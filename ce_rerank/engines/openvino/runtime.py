"""OpenVINO, loaded without what it would do besides.

`import openvino` also loads its conversion tools, a third of the time that it takes, and those tell Google
Analytics of the import unless somebody has refused on this machine. Here neither happens.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...interrupts import raise_if_interrupted
from .compilable import BrokenLibraryError

_TELEMETRY = "openvino_telemetry"
_TOOLS = "openvino.tools.ovc"

_lock = threading.Lock()


def load_runtime() -> Any:
    """Import `openvino`, for running models; it lacks `convert_model` unless that was loaded before.

    Raises BrokenLibraryError when it is missing or broken.
    """
    with _lock, _hidden(_TELEMETRY, _TOOLS):
        try:
            import openvino
        except ImportError as error:
            raise_if_interrupted()
            raise BrokenLibraryError(f"OpenVINO cannot be loaded ({error})") from error
    return openvino


def load_converter() -> Callable[..., Any]:
    """Import `openvino.convert_model`."""
    load_runtime()
    with _lock, _hidden(_TELEMETRY):
        from openvino.tools.ovc import convert_model
    return convert_model  # type: ignore[no-any-return]


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let modules that are not loaded yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]
