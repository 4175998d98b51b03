"""`ce-rerank models`: list, show, fetch, remove and export models."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UnavailableError, UsageError
from ..models.catalog import COMMON_MEASURE, MULTILINGUAL
from .console import Activity, draw_message, make_console
from .options import Command, DefaultCommandGroup, FetchOptions, MessageOptions, option, with_option_groups

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from .inventory import ListedModel

log = logging.getLogger("ce_rerank")

_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_ORDERS: dict[str, Callable[[ListedModel], Any]] = {
    "catalog": lambda model: 0,
    "parameters": lambda model: model.known.parameters or float("inf"),
    "quality": lambda model: (
        -max((one.figure for one in model.known.quality if one.measure == COMMON_MEASURE), default=0)
    ),
    "size": lambda model: -model.size_bytes,
}
_FACTS = ("architecture", "labels", "activation", "max_length", "pickled", "code")  # of a checkpoint


class ModelsGroup(DefaultCommandGroup):
    """`ce-rerank models` is `ce-rerank models list`."""

    default_command = "list"


models = typer.Typer(
    cls=ModelsGroup,
    rich_markup_mode=None,
    add_completion=False,
    help="List known models and those on this machine; fetch, remove, export them.",
)


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda function: models.command(name, cls=Command)(with_option_groups(function))


_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A model's name, alias or folder.", show_default=False)
]
_To = Annotated[Literal["table", "json"], option("--to", help="The format.")]


@_command("list")
def list_models(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only models with this in their name.", show_default=False)
    ] = "",
    *,
    language: Annotated[
        str | None, option("--language", metavar="CODE", help="Only models that read it: en, de, zh.")
    ] = None,
    cached: Annotated[bool, option("--cached", help="Only models that are on this machine.")] = False,
    max_parameters: Annotated[
        str | None, option("--max-parameters", metavar="N", help="Only models up to this size: 150M.")
    ] = None,
    sort: Annotated[
        Literal["catalog", "parameters", "quality", "size"], option("--sort", help="The order.")
    ] = "catalog",
    to: _To = "table",
    messages: MessageOptions,
) -> None:
    """List known models, and every other cross-encoder in the local cache."""
    most = _parse_count(max_parameters) if max_parameters else float("inf")
    if language is not None and not re.fullmatch("[a-z]{2,3}", language.lower()):
        raise UsageError(f"{language!r} is no code of a language.", hint="Give en, de or zh, for example.")
    with Activity(messages):
        from . import inventory

        # A model of which something is unknown does not meet a condition about it.
        listed = [
            model
            for model in inventory.list_models()
            if text.lower() in f"{model.known.name} {model.known.alias}".lower()
            and (language is None or {language.lower(), MULTILINGUAL} & {*model.known.languages})
            and (not cached or model.size_bytes)
            and (model.known.parameters or float("inf")) <= most
        ]
        listed.sort(key=_ORDERS[sort])
        if not listed:
            log.warning("None of the known or cached models matches.")
    if to == "json":
        print(json.dumps([model.as_json() for model in listed], indent=2, ensure_ascii=False))
    else:
        inventory.draw_models(make_console(), listed)


@_command("show")
def show(name: _Name, *, to: _To = "table", messages: MessageOptions) -> None:
    """Show all about a model: what is published, what its files say, and what would run it here."""
    with Activity(messages):
        from .inventory import draw_facts, find_model

        model = find_model(name)
        told = {**model.as_json(), "checkpoint": None, "use": None}
        if model.ready:
            from ..engines import choose_engine
            from ..engines.base import EngineOptions

            files = {"files": list(model.ready.files.items())}
            told["checkpoint"] = {name: getattr(model.ready, name) for name in _FACTS} | files
            told["use"] = asdict(choose_engine(model.ready, EngineOptions()))
    if to == "json":
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        draw_facts(make_console(), told)


@_command("pull")
def pull(name: _Name, *, fetch: FetchOptions, messages: MessageOptions) -> None:
    """Fetch a model or its newest files, check them, and compile the model.

    Only the files that it needs are fetched. A download that was cut off goes on where it stopped.
    """
    with Activity(messages) as activity:
        checkpoint = _fetch(activity, name, fetch, refresh=True)
        activity.stage(f"Making {checkpoint.name} ready")
        from ..engines import load_engine
        from ..engines.base import EngineOptions

        options = EngineOptions(trust_remote_code=fetch.trust_remote_code, offline=fetch.offline)
        engine = load_engine(checkpoint, options)
    _tell(f"Ready: {engine.info.description}, in {checkpoint.folder}", messages)


@_command("remove")
def remove(
    name: _Name,
    *,
    yes: Annotated[bool, option("--yes", "-y", help="Do not ask.")] = False,
    messages: MessageOptions,
) -> None:
    """Remove a model from this machine: its files in the hub's cache, and its compiled forms."""
    from rich.filesize import decimal

    from ..models.hub import remove_cached
    from .inventory import find_model

    model = find_model(name)
    if not model.removable:
        raise UnavailableError(
            f"Nothing that was fetched or made of {model.known.name} is on this machine.",
            hint="`ce-rerank models --cached` lists what is.",
        )
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nobody is there to confirm it; nothing was removed.", hint="Give --yes.")
        for folder, size in model.removable.items():
            draw_message(make_console(stderr=True), f"{folder} ({decimal(size)})", label="remove")
        if not typer.confirm("Remove this for good?", err=True):
            return
    for folder in model.removable:
        remove_cached(folder)
    _tell(f"Removed; {decimal(model.size_bytes)} are free again.", messages)


@_command("export")
def export(
    name: _Name,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that is new or empty.", show_default=False)
    ],
    *,
    fetch: FetchOptions,
    messages: MessageOptions,
) -> None:
    """Write a compiled model into a folder, for -m FOLDER on a machine without a hub."""
    with Activity(messages) as activity:
        checkpoint = _fetch(activity, name, fetch)
        from ..engines.openvino.cache import export_model

        activity.stage(f"Exporting {checkpoint.name}")
        export_model(checkpoint, folder)
    _tell(f"Run it with -m {folder.absolute()}", messages)


def _tell(message: str, messages: MessageOptions) -> None:
    """Print what was done if a person watches, or asked for it."""
    if messages.verbose or (sys.stderr.isatty() and not messages.quiet):
        draw_message(make_console(stderr=True), message)


def _fetch(activity: Activity, name: str, fetch: FetchOptions, *, refresh: bool = False) -> Checkpoint:
    """Find or fetch a model, and show how much of a download has come."""
    from ..models.store import resolve_checkpoint

    def show(count: int, total: int) -> None:
        if not count:
            activity.start(total, f"Downloading {name}, bytes")
        activity.advance(count)

    return resolve_checkpoint(name, refresh=refresh, on_progress=show, **asdict(fetch))


def _parse_count(text: str) -> float:
    """Read a number of parameters: 33000000, 33M, 0.6B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.upper())
    if found is None:
        raise UsageError(
            f"--max-parameters {text}: that is no number.", hint="Give 150M, 0.6B or 33000000, for example."
        )
    return float(found[1]) * _SCALES[found[2]]
