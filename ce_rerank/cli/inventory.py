"""Models: what is known about each, what of it is on this machine, and how both are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..engines.openvino.cache import CompiledForm, digest_place, list_compiled
from ..errors import UnavailableError
from ..files import measure_folder
from ..models import hub
from ..models.catalog import (
    COMMON_MEASURE,
    MULTILINGUAL,
    OFFLINE_NAME,
    KnownModel,
    find_known,
    read_catalog,
    resolve_alias,
    suggest_names,
)
from ..models.checkpoint import Checkpoint, Fault
from ..models.store import find_folder, offline_checkpoint
from .console import clean_text, draw_message, draw_plainly

_NUMBERS = ("params", "tokens", "nDCG", "size")
_FOLDERS = ("folder", "compiled")  # the sources of checkpoints that are the user's own
_MOST_LANGUAGES = 2  # that are named; more are counted
_EXPLANATION = (
    "tokens: the most of query and document together. scores: their scale. nDCG: nDCG@10 on MTEB(eng, v2) "
    "retrieval, six embedders' top 100 reranked; * another measure. `ce-rerank models show MODEL` tells all."
)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model: what the catalog or its files say about it, and its files on this machine.

    `checkpoint` is what is used if no revision is named; it is None if there are no files here. `fault` is
    why it cannot be used. `forms` are its compiled forms. `removable` are its folders in a cache, with their
    sizes in bytes.
    """

    known: KnownModel
    in_catalog: bool
    checkpoint: Checkpoint | None
    fault: Fault | None
    forms: tuple[CompiledForm, ...]
    removable: dict[Path, int]

    @property
    def size_bytes(self) -> int:
        """What it takes in the caches."""
        return sum(self.removable.values())

    @property
    def ready(self) -> Checkpoint | None:
        """The checkpoint, if it can be used without fetching anything."""
        return None if self.fault else self.checkpoint

    @property
    def is_compiled(self) -> bool:
        """Whether the revision that is here was compiled; its libraries may have changed since."""
        here = self.checkpoint
        return here is not None and (
            here.source == "compiled"
            or any(form.declined is None and form.origin.revision == here.revision for form in self.forms)
        )

    def as_json(self) -> dict[str, Any]:
        """Return all about it, as one flat object."""
        return {
            **asdict(self.known),
            "in_catalog": self.in_catalog,
            "cached": self.ready is not None,
            "compiled": self.is_compiled,
            "revision": self.checkpoint and self.checkpoint.revision,
            "folder": self.checkpoint and str(self.checkpoint.folder),
            "fault": self.fault and self.fault.cause,
            "compiled_folders": [str(form.folder) for form in self.forms],
            "size_bytes": self.size_bytes,
        }


def list_models() -> list[ListedModel]:
    """List the known models in the catalog's order, then the other cross-encoders in the hub's cache."""
    catalog, forms = read_catalog(), list_compiled()
    names = {name for known in catalog for name in (known.name, *known.other_names)}
    others = [_look_up(name, None, forms) for name in hub.list_cached_names() if name not in names]
    return [
        *(_look_up(known.name, known, forms) for known in catalog),
        *(other for other in others if other.ready and other.ready.declares_reranker),
    ]


def find_model(name: str) -> ListedModel:
    """Find a model by its name or alias, in the catalog or a cache, or by its folder.

    Raises UnavailableError, with the nearest names, when nothing is known of it.
    """
    whole = resolve_alias(name)
    known = find_known(whole)
    own = find_folder(whole) if known is None else None
    model = _look_up(whole, known, list_compiled(), own)
    if known is None and own is None and not model.removable:
        suggested = " or ".join(suggest_names(name, hub.list_cached_names()))
        raise UnavailableError(
            f"{name} is not in the catalog, and nothing of it is on this machine.",
            hint=f"Did you mean {suggested}?" if suggested else "`ce-rerank models` lists what is.",
        )
    return model


def _look_up(
    name: str, known: KnownModel | None, forms: list[CompiledForm], own: Checkpoint | None = None
) -> ListedModel:
    """Find what is here of a model, by its whole name, or what the user's `own` folder holds."""
    checkpoint: Checkpoint | None
    if own is not None:
        place, kept, checkpoint = digest_place(own), [], own
        forms = [form for form in forms if form.origin.place == place]
    else:
        names = (name, known.name, *known.other_names) if known else (name,)
        forms = [form for form in forms if form.origin.name in names and form.origin.source not in _FOLDERS]
        cached = next((one for one in names if hub.repository_folder(one).is_dir()), name)
        kept, checkpoint = [hub.repository_folder(cached)], hub.find_any_snapshot(cached)
        if name == OFFLINE_NAME:
            kept = [offline_checkpoint().folder]
            checkpoint = offline_checkpoint() if kept[0].is_dir() else None
    fault = checkpoint.find_fault(allow_pickle=True) if checkpoint else None
    published = known or KnownModel(name, languages=())
    if known is None and checkpoint is not None and fault is None:
        published = _describe_files(checkpoint)
    folders = (*kept, *(form.folder for form in forms))
    removable = {folder: measure_folder(folder) for folder in folders if folder.is_dir()}
    return ListedModel(published, known is not None, checkpoint, fault, tuple(forms), removable)


def _describe_files(checkpoint: Checkpoint) -> KnownModel:
    """Return what a checkpoint's own files say about a model that is not in the catalog."""
    scales = {"identity": "logit", "sigmoid": "sigmoid"}
    return KnownModel(
        name=checkpoint.name,
        family=checkpoint.family or None,
        kind="causal" if checkpoint.is_causal else "encoder",
        parameters=sum(map(math.prod, checkpoint.tensors.values())) or None,
        languages=(),
        context_length=checkpoint.max_length,
        licence=checkpoint.licence,
        score_scale=scales.get(checkpoint.activation),  # type: ignore[arg-type]
        needs_remote_code=bool(checkpoint.code),
    )


def draw_models(console: Console, models: Sequence[ListedModel]) -> None:
    """Draw a line for each model, and below them what the columns mean."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("model", "params", "lang", "tokens", "scores", "nDCG", "here", "size"):
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    missing = "-" if console.options.ascii_only else "—"
    for model in models:
        known, here = model.known, ""
        if model.size_bytes:
            here = ("compiled" if model.is_compiled else "cached") if model.ready else "part"
        languages, quality = " ".join(known.languages).replace(MULTILINGUAL, "many"), ""
        if len(known.languages) > _MOST_LANGUAGES:
            languages = str(len(known.languages))
        if known.quality:
            mark = " " if known.quality[0].measure == COMMON_MEASURE else "*"
            quality = f"{known.quality[0].figure:.3f}{mark}"
        table.add_row(
            Text(clean_text(known.alias or known.name), "bold" * bool(here)),
            _describe_count(known.parameters) or missing,
            languages or missing,
            f"{known.context_length:,}" if known.context_length else missing,
            known.score_scale or missing,
            quality or missing,
            Text(here, "yellow" if here == "part" else "green"),
            decimal(model.size_bytes) if model.size_bytes else "",
        )
    draw_plainly(console, table)
    console.print()
    draw_plainly(console, Text(_EXPLANATION, style="dim"))


def _describe_count(count: int | None) -> str:
    """Write a number of parameters as people do: 22.7M, 568M, 1.5B; empty for none."""
    for scale, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count and count >= scale:
            return f"{count / scale:.0f}{unit}" if count >= 100 * scale else f"{count / scale:.3g}{unit}"
    return str(count) if count else ""


def draw_facts(console: Console, facts: Mapping[str, Any]) -> None:
    """Draw names and values in two columns, a line for each of several values; leave out empty ones."""
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print()
            draw_facts(console, value)
            continue
        label = name.replace("_", " ")
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None and one != "":
                draw_message(console, _describe_value(one), label=label.ljust(17), label_style="dim")
                label = ""


def _describe_value(value: object) -> str:
    if isinstance(value, dict | tuple):  # a published figure, or a file and its size
        return "  ".join(map(_describe_value, value.values() if isinstance(value, dict) else value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
