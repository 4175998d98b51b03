"""`ce-rerank models`: which models there are, which of them are here, and fetching and removing them."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import UnavailableError, UsageError
from .commands import Command, DefaultCommandGroup, with_option_groups
from .console import (
    Activity,
    describe_size,
    draw_message,
    show_messages,
    stderr_console,
    stdout_console,
)
from .options import AllowPickle, MessageOptions, Offline, Revision, TrustRemoteCode

if TYPE_CHECKING:
    from ..models.inventory import ModelEntry
    from ..models.store import Checkpoint

log = logging.getLogger("ce_rerank")

# As in models/inventory.py, which is not imported before a list is asked for.
_Order = Literal["catalog", "name", "parameters", "quality", "context", "size"]
_MEGABYTE = 10**6
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


class ModelsGroup(DefaultCommandGroup):
    """`ce-rerank models` is `ce-rerank models list`."""

    default_command = "list"


models = typer.Typer(
    cls=ModelsGroup,
    rich_markup_mode=None,
    add_completion=False,
    help="List known models and those on this machine; fetch, remove, export them.",
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name or alias.", show_default=False)]
_To = Annotated[Literal["table", "json"], typer.Option("--to", help="The format.")]


def list_models(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only models with this in their name.", show_default=False)
    ] = "",
    *,
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="CODE", help="Only models that read this language: en, de, zh."),
    ] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only models that are on this machine.")] = False,
    max_parameters: Annotated[
        str | None,
        typer.Option("--max-parameters", metavar="N", help="Only models up to this size: 150M, 0.6B."),
    ] = None,
    sort: Annotated[_Order, typer.Option("--sort", help="The order.")] = "catalog",
    to: _To = "table",
    messages: MessageOptions,
) -> None:
    """List known models, and every other cross-encoder in the local cache."""
    limit = None if max_parameters is None else _parse_count(max_parameters)
    if language is not None and not re.fullmatch("[a-z]{2,3}", language.lower()):
        raise UsageError(f"{language!r} is no code of a language.", hint="Give en, de or zh, say.")
    with show_messages(messages):
        from ..models import inventory

        entries = inventory.sort_models(
            inventory.select_models(
                inventory.list_models(), text=text, language=language, cached=cached, max_parameters=limit
            ),
            sort,
        )
        if not entries:
            log.warning("None of the known or cached models matches.")
    if to == "json":
        _write_json([_as_json(entry) for entry in entries])
        return
    from .models_table import draw_models

    draw_models(stdout_console(), entries)


def show(
    name: _Name,
    *,
    to: _To = "table",
    messages: MessageOptions,
) -> None:
    """Show everything known of a model: what is published, what its files say, how it would be run here."""
    with show_messages(messages):
        from ..models.inventory import inspect_model

        entry, facts = inspect_model(_find(name))
        checkpoint = entry.checkpoint()
        use = None if checkpoint is None else _foresee_use(checkpoint)
    if to == "json":
        _write_json({**_as_json(entry), "checkpoint": facts and asdict(facts), "use": use})
        return
    from .models_table import draw_model

    draw_model(stdout_console(), entry, facts, use)


def pull(
    name: _Name,
    *,
    revision: Revision = None,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    messages: MessageOptions,
) -> None:
    """Fetch a model, or what is new of it, and make it ready: only the files it needs, compiled and checked.

    A download that was cut off is taken up again file by file.
    """
    with show_messages(messages) as activity:
        from ..models.store import resolve_checkpoint

        checkpoint = resolve_checkpoint(
            name,
            revision=revision,
            offline=offline,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            refresh=True,
            on_progress=_show_bytes(activity, name),
        )
        activity.stage(f"Making {checkpoint.name} ready")
        from ..engines import load_engine
        from ..engines.base import EngineOptions

        options = EngineOptions(trust_remote_code=trust_remote_code, offline=offline)
        engine = load_engine(checkpoint, options)
    size = describe_size(sum(file.stat().st_size for file in checkpoint.folder.rglob("*") if file.is_file()))
    _tell(f"Ready: {engine.info.description}. {size} in {checkpoint.folder}", messages)


def remove(
    name: _Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    messages: MessageOptions,
) -> None:
    """Remove a model from this machine: its folder in the hub's cache, and what was made of it in ours."""
    from ..models import removal

    planned = removal.plan_removal(_find(name))
    console = stderr_console()
    for one in planned if not (yes and messages.quiet) else ():
        draw_message(console, f"{one.what}: {one.folder} ({describe_size(one.size_bytes)})", label="remove")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nobody is there to confirm it; nothing was removed.", hint="Give --yes.")
        if not typer.confirm("Remove this for good?", err=True):
            draw_message(console, "Nothing was removed.")
            return
    for one in planned:
        removal.remove(one)
    if not messages.quiet:
        freed = describe_size(sum(one.size_bytes for one in planned))
        draw_message(console, f"Removed; {freed} are free again.")


def export(
    name: _Name,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that is new or empty.", show_default=False)
    ],
    *,
    revision: Revision = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
    messages: MessageOptions,
) -> None:
    """Write a compiled model as a folder that -m FOLDER runs on a machine without a hub."""
    with show_messages(messages) as activity:
        from ..models.store import resolve_checkpoint

        checkpoint = resolve_checkpoint(
            name,
            revision=revision,
            offline=offline,
            allow_pickle=allow_pickle,
            on_progress=_show_bytes(activity, name),
        )
        from ..engines.openvino.export import export_model
        from ..models.kind import require_reranker

        require_reranker(checkpoint)
        activity.stage(f"Exporting {checkpoint.name}")
        export_model(checkpoint, folder)
    size = describe_size(sum(file.stat().st_size for file in folder.iterdir()))
    _tell(f"{size} in {folder}; run it with -m {_as_argument(folder)}", messages)


def _tell(message: str, messages: MessageOptions) -> None:
    """Say what was done to a person who watches, or asked to hear of everything."""
    if messages.verbose or (sys.stderr.isatty() and not messages.quiet):
        draw_message(stderr_console(), message)


_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_models,
    "show": show,
    "pull": pull,
    "remove": remove,
    "export": export,
}
for _command_name, _command in _COMMANDS.items():
    models.command(_command_name, cls=Command)(with_option_groups(_command))


def _as_argument(folder: Path) -> str:
    """Write a folder so that it cannot be taken for a model on the hub."""
    return str(folder) if folder.is_absolute() else f".{os.sep}{folder}"


def _find(name: str) -> ModelEntry:
    """Find a model by name; raises UnavailableError, with the nearest names, when nothing is known of it."""
    from ..models.catalog import suggest_names
    from ..models.hub_cache import list_cached_names
    from ..models.inventory import find_model

    entry = find_model(name)
    if entry is None:
        suggested = suggest_names(name, list_cached_names())
        raise UnavailableError(
            f"{name} is not in the catalog, and nothing of it is on this machine.",
            hint=f"Did you mean {' or '.join(suggested)}?"
            if suggested
            else "`ce-rerank models` lists what is.",
        )
    return entry


def _foresee_use(checkpoint: Checkpoint) -> dict[str, str]:
    """Say what would run a model here, and why; or why nothing would."""
    from ..engines import choose_engine
    from ..engines.base import EngineOptions

    try:
        return asdict(choose_engine(checkpoint, EngineOptions()))
    except UnavailableError as error:
        return {"refused": error.message}


def _show_bytes(activity: Activity, name: str) -> Callable[[int, int], None]:
    """Give what counts a download on the terminal, in megabytes."""
    shown: list[int] = []

    def show(done_bytes: int, total_bytes: int) -> None:
        done = done_bytes // _MEGABYTE
        if not shown:
            activity.start(total=max(1, total_bytes // _MEGABYTE), stage=f"Downloading {name}, MB")
            shown.append(0)
        activity.advance(done - shown[0])
        shown[0] = done

    return show


def _parse_count(text: str) -> int:
    """Read a number of parameters: 33000000, 33M, 0.6B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMBG]?)", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"--max-parameters {text}: that is no number.", hint="Give 150M, 0.6B or 33000000, say."
        )
    return int(float(found[1]) * _SCALES[found[2].upper()])


def _as_json(entry: ModelEntry) -> dict[str, Any]:
    """Give all that is known of a model, flat but for what is here of it."""
    known = asdict(entry.known)
    cached = entry.cached
    return {
        **known,
        "in_catalog": entry.in_catalog,
        "cached": entry.is_ready,
        "compiled": entry.is_compiled,
        "revision": cached and cached.revision,
        "folder": cached and str(cached.checkpoint or cached.folder),
        "fault": cached and cached.fault,
        "compiled_folders": [str(form.folder) for form in entry.compiled],
        "size_bytes": entry.size_bytes,
    }


def _write_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
