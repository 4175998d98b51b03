"""The command as a user runs it: a process of its own, with caches of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Shell:
    """Runs `ce-rerank` with caches below a folder, and no way to any hub until the test names one."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def below(cls, folder: Path) -> Shell:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "CE_RERANK_"))}
        own = {
            "HF_HOME": str(folder / "huggingface"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "CE_RERANK_CACHE": str(folder / "cache"),
            "CE_RERANK_DEVICE": "cpu",
        }
        return cls(folder, kept | own)

    @property
    def hub_cache(self) -> Path:
        return self.folder / "huggingface" / "hub"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def shadow(self, module: str, code: str = "") -> None:
        """Put a module in the way of the one that is installed, with code to run when it is imported."""
        package = self.folder / "shadows" / module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code, encoding="utf-8")
        # Before what is there: the code under test may be found by it.
        paths = [str(self.folder / "shadows"), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ce_rerank", *arguments],
            env=self.environment, cwd=self.folder, text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, and read the JSON that it gives."""
        done = self(*arguments, "--to", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
