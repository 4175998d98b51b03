"""Models: what is known about each, and what of it is on this machine and in a drawing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
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
from ..models.store import find_folder, is_path, offline_checkpoint
from .console import clean_text, describe_count, describe_size, draw_message, draw_plainly

_COLUMNS = {  # with the width of the terminal from which each is shown
    "model": 0, "whole name": 146, "params": 0, "lang": 0, "tokens": 0, "licence": 96, "scores": 0, "nDCG": 0,
    "here": 0, "size": 0,
}  # fmt: skip
_NUMBERS = ("params", "tokens", "nDCG", "size")
_FACTS = (
    "architecture", "family", "labels", "activation", "instruction", "max_length", "parameters", "licence",
    "languages", "pickled", "code",
)  # fmt: skip
_APART = ("name", "alias", "needs_remote_code", "code", "pickled")  # are drawn in other ways than other facts
_FOLDERS = ("folder", "compiled")  # the sources of checkpoints that are the user's own
_MOST_LANGUAGES = 2  # that are named; more are counted
_EXPLANATION = (
    "tokens: the most of query and document together. scores: their scale. nDCG: nDCG@10 on MTEB(eng, v2) "
    "retrieval, six embedders' top 100 reranked; * another measure. `ce-rerank models show MODEL` tells all."
)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model: what the catalog or its files say about it, and its files on this machine.

    `forms` are its compiled forms. `folder` holds all revisions that are here, and takes `folder_bytes` on
    the disk. `checkpoint` is what is used if no revision is named; it is None if there are no files here.
    `fault` is why it cannot be used.
    """

    known: KnownModel
    in_catalog: bool
    forms: tuple[CompiledForm, ...]
    folder: Path | None = None
    folder_bytes: int = 0
    checkpoint: Checkpoint | None = None
    fault: Fault | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return self.folder_bytes + sum(form.size_bytes for form in self.forms)

    @property
    def ready(self) -> Checkpoint | None:
        """The checkpoint, if it can be used without fetching anything."""
        return None if self.fault else self.checkpoint

    @property
    def is_compiled(self) -> bool:
        """Whether the revision that is here was compiled; its libraries may have changed since."""
        return self.checkpoint is not None and any(
            form.declined is None and form.origin.revision == self.checkpoint.revision for form in self.forms
        )

    @property
    def removable(self) -> dict[Path, int]:
        """The folders of it that are in a cache, with their sizes in bytes."""
        is_own = self.checkpoint is not None and self.checkpoint.source in _FOLDERS
        found = {} if self.folder is None or is_own else {self.folder: self.folder_bytes}
        return found | {form.folder: form.size_bytes for form in self.forms}

    def remove(self) -> None:
        """Remove everything `removable`. Raises OSError if something cannot be removed."""
        for folder in self.removable:
            if folder.parent == hub.hub_cache_folder():
                hub.remove_cached(folder)
            else:
                shutil.rmtree(folder)

    def as_json(self) -> dict[str, Any]:
        """Return all about it, as one flat object."""
        folder = self.ready.folder if self.ready else self.folder
        return {
            **asdict(self.known),
            "in_catalog": self.in_catalog,
            "cached": self.ready is not None,
            "compiled": self.is_compiled,
            "revision": self.checkpoint and self.checkpoint.revision,
            "folder": folder and str(folder),
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
        *(other for other in others if other.checkpoint and other.checkpoint.declares_reranker),
    ]


def find_model(name: str) -> ListedModel:
    """Find a model by its name or alias, in the catalog or a cache, or by its folder.

    Raises UnavailableError, with the nearest names, when nothing is known of it.
    """
    whole = resolve_alias(name)
    known = find_known(whole)
    own = find_folder(whole) if known is None and is_path(whole) else None
    model = _look_up(whole, known, list_compiled(), own)
    # There may be a compiled form without a checkpoint.
    if known is None and model.folder is None and not model.forms:
        suggested = " or ".join(suggest_names(name, hub.list_cached_names()))
        raise UnavailableError(
            f"{name} is not in the catalog, and nothing of it is on this machine.",
            hint=f"Did you mean {suggested}?" if suggested else "`ce-rerank models` lists what is.",
        )
    return model


def _look_up(
    name: str, known: KnownModel | None, forms: list[CompiledForm], own: Checkpoint | None = None
) -> ListedModel:
    """Find what is here of a model, by its whole name, or what its `own` folder holds.

    Of the revisions in the hub's cache, the first without a fault is used.
    """
    if name == OFFLINE_NAME:
        own = offline_checkpoint()
    published = known or KnownModel(name, languages=())
    names = (name, published.name, *published.other_names)
    place = digest_place(own) if own and own.source in _FOLDERS else None
    own_forms = tuple(
        form
        for form in forms
        if (
            form.origin.place == place
            if place
            else form.origin.name in names and form.origin.source not in _FOLDERS
        )
    )
    cached = next((one for one in names if hub.repository_folder(one).is_dir()), name)
    folder = own.folder if own else hub.repository_folder(cached)
    if not folder.is_dir():
        return ListedModel(published, known is not None, own_forms)
    candidates = [own] if own else hub.list_snapshots(cached)
    faults = {one: one.find_fault(allow_pickle=True) for one in candidates}
    checkpoint = next((one for one, fault in faults.items() if fault is None), next(iter(faults), None))
    fault = faults[checkpoint] if checkpoint else Fault("has no file that is whole")
    if known is None and checkpoint is not None and fault is None:
        published = _describe_files(checkpoint)
    size = measure_folder(folder)
    return ListedModel(published, known is not None, own_forms, folder, size, checkpoint, fault)


def _describe_files(checkpoint: Checkpoint) -> KnownModel:
    """Return what a checkpoint's own files say about a model that is not in the catalog."""
    scales = {"identity": "logit", "sigmoid": "sigmoid"}
    return KnownModel(
        name=checkpoint.name,
        family=checkpoint.family or None,
        kind="causal" if checkpoint.is_causal else "encoder",
        parameters=checkpoint.parameters,
        languages=checkpoint.languages,
        context_length=checkpoint.max_length,
        licence=checkpoint.licence,
        score_scale=scales.get(checkpoint.activation),  # type: ignore[arg-type]
        needs_remote_code=bool(checkpoint.code),
    )


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint's own files say, for JSON and the drawing."""
    return {name: getattr(checkpoint, name) for name in _FACTS} | {"files": list(checkpoint.files.items())}


def draw_models(console: Console, models: Sequence[ListedModel]) -> None:
    """Draw a line for each model, and below them what the columns mean."""
    missing = "-" if console.options.ascii_only else "—"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns = [name for name, least_width in _COLUMNS.items() if console.width >= least_width]
    for name in columns:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for model in models:
        row = _describe_row(model, missing)
        styles = {"here": "yellow" if row["here"] == "part" else "green", "model": "bold" * bool(row["here"])}
        table.add_row(*(Text(clean_text(row[name]), styles.get(name, "")) for name in columns))
    draw_plainly(console, table)
    console.print()
    draw_plainly(console, Text(_EXPLANATION, style="dim"))


def _describe_row(model: ListedModel, missing: str) -> dict[str, str]:
    known, here = model.known, ""
    if model.size_bytes:
        here = ("compiled" if model.is_compiled else "cached") if model.ready else "part"
    languages, quality = " ".join(known.languages), ""
    if MULTILINGUAL in known.languages:
        languages = "many"
    elif len(known.languages) > _MOST_LANGUAGES:
        languages = str(len(known.languages))
    if known.quality:
        mark = " " if known.quality[0].measure == COMMON_MEASURE else "*"
        quality = f"{known.quality[0].figure:.3f}{mark}"
    return {
        "model": known.alias or known.name,
        "whole name": known.name if known.alias else "",
        "params": describe_count(known.parameters) or missing,
        "lang": languages or missing,
        "tokens": f"{known.context_length:,}" if known.context_length else missing,
        "licence": known.licence or missing,
        "scores": known.score_scale or missing,
        "nDCG": quality or missing,
        "here": here,
        "size": describe_size(model.size_bytes) if model.size_bytes else "",
    }


def draw_model(
    console: Console, model: ListedModel, facts: Mapping[str, Any] | None, use: Mapping[str, str] | None
) -> None:
    """Draw all that is known of one model.

    `facts` are what its files say, and `use` is what would run it here; both are None if it cannot be used.
    """
    known, facts, use = model.known, facts or {}, use or {}
    alias = f"  {known.alias}" if known.alias else ""
    console.print(Text.assemble((clean_text(known.name), "bold"), (alias, "cyan")))
    here = f"{describe_size(model.folder_bytes)} in {model.folder}"
    code = facts.get("code") or ["read it first"] * known.needs_remote_code
    published = {one.name: getattr(known, one.name) for one in fields(known) if one.name not in _APART}
    sections: list[dict[str, Any]] = [
        published if model.in_catalog else {},
        {
            "here": here if model.folder else "nothing; `ce-rerank models pull` fetches it",
            "state": model.fault and f"{model.fault.cause}. {model.fault.hint}",
            "revision": model.checkpoint and model.checkpoint.revision,
            "compiled": [
                f"{describe_size(form.size_bytes)} in {form.folder}"
                if form.declined is None
                else f"not possible: {form.declined}"
                for form in model.forms
            ],
        },
        {
            **{name: value for name, value in facts.items() if name not in _APART},
            "files": [f"{name} ({describe_size(size)})" for name, size in facts.get("files", ())],
        },
        {
            "run by": "engine" in use and "{engine} {precision} on {device}: {reason}".format_map(use),
            "refused": use.get("refused"),
            "needs": [
                *(f"--trust-remote-code, to run Python code of its own: {one}" for one in code),
                *(
                    f"--allow-pickle, to load what can run any code: {one}"
                    for one in facts.get("pickled", ())
                ),
            ],
        },
    ]
    for section in sections:
        _draw_facts(console, section)


def _draw_facts(console: Console, facts: Mapping[str, Any]) -> None:
    """Draw names and values in two columns, a line for each value of several; leave out empty values."""
    given = {name: value for name, value in facts.items() if value}
    if given:
        console.print()
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        label, style = name.replace("_", " "), "yellow" if name == "needs" else "dim"
        for one in values:
            text = f"{one:,}" if isinstance(one, int) else str(one)
            draw_message(console, text, label=label.ljust(14), label_style=style)
            label = ""
