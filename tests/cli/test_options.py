"""What is declared for all commands at once."""

from __future__ import annotations

from typing import get_type_hints

from ce_rerank.cli.options import ModelOptions


def test_every_model_option_has_its_environment_variable() -> None:
    hints = get_type_hints(ModelOptions, include_extras=True)
    variables = {name: hint.__metadata__[0].envvar for name, hint in hints.items()}
    assert variables == {name: f"CE_RERANK_{name.upper()}" for name in hints}
