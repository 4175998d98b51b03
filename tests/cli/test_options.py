"""What is declared for all commands at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_type_hints

import pytest

from ce_rerank.cli import models
from ce_rerank.cli.options import ModelOptions


def test_every_model_option_has_its_environment_variable() -> None:
    hints = get_type_hints(ModelOptions, include_extras=True)
    variables = {name: hint.__metadata__[0].envvar for name, hint in hints.items()}
    assert variables == {name: f"CE_RERANK_{name.upper()}" for name in hints}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (models.pull, {"revision", "offline", "trust_remote_code", "allow_pickle"}),
        (models.export, {"revision", "offline", "allow_pickle"}),
    ],
)
def test_fetching_a_model_takes_the_options_of_running_it(
    command: Callable[..., None], names: set[str]
) -> None:
    shared = get_type_hints(ModelOptions, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    assert {name for name, hint in own.items() if shared.get(name) == hint} == names
