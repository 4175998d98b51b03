"""What is declared for all commands at once."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ce_rerank.cli.app import app
from ce_rerank.cli.options import COMMANDS, ModelOptions
from ce_rerank.errors import UsageError


def parameters_of(*names: str) -> dict[str, Any]:
    command: Any = get_command(app)
    for name in names:
        command = command.get_command(command.make_context("ce-rerank", [name]), name)
    return {parameter.name: parameter for parameter in command.params}


def test_every_model_option_has_its_environment_variable() -> None:
    parameters = parameters_of("rank")
    names = [one.name for one in fields(ModelOptions)]
    assert [parameters[name].envvar for name in names] == [f"CE_RERANK_{name.upper()}" for name in names]


def test_a_value_comes_from_the_environment_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CE_RERANK_THREADS", "0")
    monkeypatch.setenv("CE_RERANK_OFFLINE", "1")
    refused = CliRunner().invoke(app, ["q", "a", "-m", "no/such"])
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (
        2, "error: Invalid value for '--threads' (env var: 'CE_RERANK_THREADS'): 0 is less than 1.",
    )  # fmt: skip
    offline = CliRunner().invoke(app, ["q", "a", "-m", "no/such", "--threads", "1"])
    assert (offline.exit_code, "--offline forbids" in offline.stderr) == (4, True)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [("1", "It is True."), ("no", "It is False."), ("", "It is False."), ("2", "'2' is neither true nor")],
)
def test_a_switch_in_the_environment_may_be_on_or_off(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: str
) -> None:
    def refuse(**arguments: Any) -> None:
        raise UsageError(f"It is {arguments['trust_remote_code']}.")

    monkeypatch.setattr("ce_rerank.reranker.Reranker", refuse)
    monkeypatch.setenv("CE_RERANK_TRUST_REMOTE_CODE", value)
    result = CliRunner().invoke(app, ["q", "a"])
    assert (result.exit_code, outcome in result.stderr) == (2, True)


@pytest.mark.parametrize("command", ["pull", "export"])
def test_fetching_a_model_takes_the_options_of_running_it(command: str) -> None:
    ranks, own = parameters_of("rank"), parameters_of("models", command)
    names = {"revision", "offline", "trust_remote_code", "allow_pickle"}
    assert {one.name for one in fields(ModelOptions)} & own.keys() == names
    assert [own[name].opts for name in names] == [ranks[name].opts for name in names]
    assert [own[name].envvar for name in names] == [ranks[name].envvar for name in names]


@pytest.mark.parametrize("columns", ["60", "120"])
def test_every_command_has_help_that_fits(columns: str) -> None:
    subcommands = [["models", name] for name in ("list", "show", "pull", "remove", "export")]
    for names in ([], *([name] for name in COMMANDS), *subcommands):
        result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": columns})
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: {' '.join(['ce-rerank', *names])} [OPTIONS]")
        assert max(map(len, result.stdout.splitlines())) <= max(80, int(columns))


def test_the_help_of_rank_fits_on_a_page_and_says_every_choice_and_default() -> None:
    lines = CliRunner().invoke(app, ["rank", "--help"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert len(lines) < 85
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "--pool max|mean-top3|first How passage scores make a document's score. [default: max]" in text
    assert "-k, --top-k N Keep the best N." in text
    assert not re.search(r"[<…]", text)
