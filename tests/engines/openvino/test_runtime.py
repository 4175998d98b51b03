"""OpenVINO is loaded without its tools and without telling anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_WATCHED = ["openvino_telemetry", "openvino.tools.ovc"]
_REPORT = f"import sys; print([name for name in {_WATCHED} if name in sys.modules])"


def run_python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home)}
    for name in ("CI", "BUILD_NUMBER"):  # under which the telemetry holds back by itself
        environment.pop(name, None)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_running_models_takes_neither_the_tools_nor_the_telemetry(tmp_path: Path) -> None:
    code = (
        f"from ce_rerank.engines.openvino.runtime import load_runtime; load_runtime().Core(); {_REPORT}\n"
        "import openvino_telemetry"  # by others, it can still be imported
    )
    done = run_python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_converting_takes_the_tools_and_tells_nobody(tmp_path: Path) -> None:
    code = f"from ce_rerank.engines.openvino.runtime import load_converter; load_converter(); {_REPORT}"
    done = run_python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("['openvino.tools.ovc']\n", "")
    assert list(tmp_path.iterdir()) == []
