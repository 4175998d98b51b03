"""What is declared for all commands at once."""

from __future__ import annotations

from collections.abc import Callable
from inspect import get_annotations

import pytest
from typer.testing import CliRunner

from ce_rerank.cli import models
from ce_rerank.cli.app import app
from ce_rerank.cli.options import ModelOptions


def test_every_model_option_has_its_environment_variable() -> None:
    hints = get_annotations(ModelOptions, eval_str=True)
    variables = {name: hint.__metadata__[0].envvar for name, hint in hints.items()}
    assert variables == {name: f"CE_RERANK_{name.upper()}" for name in hints}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["batch", "x", "--to", "xml"],
            "Invalid value for '--to': 'xml' is not one of 'jsonl', 'rows', 'csv', 'tsv', 'trec', 'parquet'.",
        ),
        (
            ["q", "a", "--pool", "sum"],
            "Invalid value for '--pool': 'sum' is not one of 'max', 'mean-top3', 'first'.",
        ),
    ],
    ids=lambda case: case[-1] if isinstance(case, list) else "",
)
def test_a_value_that_is_no_choice_is_told_with_the_choices_and_no_more(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.stderr.splitlines()[0] == f"error: {message}"
    assert (result.stdout, result.exit_code) == ("", 2)


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
    shared = get_annotations(ModelOptions, eval_str=True)
    own = get_annotations(command, eval_str=True)
    assert {name for name, hint in own.items() if name in shared and shared[name] == hint} == names
