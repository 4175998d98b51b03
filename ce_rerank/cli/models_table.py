"""Models with their compiled forms, drawn: a line each, or one at length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engines.openvino.cache import CompiledForm, list_compiled
from ..models.catalog import COMMON_MEASURE, MULTILINGUAL, KnownModel
from ..models.checkpoint import Checkpoint
from ..models.store import ModelEntry
from .console import clean_text, describe_count, describe_size, draw_message

_WITH_LICENCES = 96  # columns of the terminal from which there is room for them
_WITH_WHOLE_NAMES = 146
_LABEL_WIDTH = 12
_FACTS = (
    "architecture", "family", "labels", "activation", "instruction", "max_length", "parameters", "licence",
    "languages", "pickled", "code",
)  # fmt: skip
_MOST_LANGUAGES = 2  # that are named; more are counted
_EXPLANATION = (
    "tokens: the most of query and document together. scores: their scale. nDCG: nDCG@10 on MTEB(eng, v2) "
    "retrieval, six embedders' top 100 reranked; * another measure. `ce-rerank models show MODEL` tells all."
)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model, and what was compiled of it on this machine."""

    entry: ModelEntry
    forms: tuple[CompiledForm, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return self.entry.size_bytes + sum(form.size_bytes for form in self.forms)

    @property
    def is_compiled(self) -> bool:
        """Whether the revision that is here was compiled; its libraries may have changed since."""
        checkpoint = self.entry.checkpoint
        return checkpoint is not None and any(
            form.declined is None and form.revision == checkpoint.revision for form in self.forms
        )


def join_compiled(entries: Iterable[ModelEntry]) -> list[ListedModel]:
    """Join models with what was compiled of each, under any of its names."""
    forms = list_compiled()
    listed = []
    for entry in entries:
        names = {name.lower() for name in (entry.name, *entry.known.other_names)}
        listed.append(ListedModel(entry, tuple(form for form in forms if form.name.lower() in names)))
    return listed


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint's own files say."""
    return {name: getattr(checkpoint, name) for name in _FACTS} | {"files": list(checkpoint.files.items())}


def draw_models(console: Console, models: Sequence[ListedModel]) -> None:
    """Draw a line for each model, and below what the columns mean."""
    missing = "-" if console.options.ascii_only else "—"
    columns = {"model": "", "whole name": "", "params": "r", "lang": "", "tokens": "r", "licence": ""}
    columns |= {"scores": "", "nDCG": "r", "here": "", "size": "r"}
    if console.width < _WITH_WHOLE_NAMES:
        del columns["whole name"]
    if console.width < _WITH_LICENCES:
        del columns["licence"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, side in columns.items():
        table.add_column(column, justify="right" if side else "left", overflow="fold")
    for model in models:
        known, here = model.entry.known, ""
        if model.size_bytes:
            here = ("compiled" if model.is_compiled else "cached") if model.entry.is_ready else "part"
        cells = {
            "model": known.alias or known.name,
            "whole name": known.name if known.alias else "",
            "params": describe_count(known.parameters) or missing,
            "lang": _short_languages(known.languages) or missing,
            "tokens": f"{known.context_length:,}" if known.context_length else missing,
            "licence": known.licence or missing,
            "scores": known.score_scale or missing,
            "nDCG": _short_quality(known) or missing,
            "here": here,
            "size": describe_size(model.size_bytes) if model.size_bytes else "",
        }
        styles = {"here": "yellow" if here == "part" else "green", "model": "bold" if here else ""}
        table.add_row(
            *(Text(clean_text(cells[name], console.encoding), styles.get(name, "")) for name in columns)
        )
    console.print(table)
    console.print()
    console.print(Text(_EXPLANATION, style="dim"))


def draw_model(
    console: Console, model: ListedModel, facts: Mapping[str, Any] | None, use: Mapping[str, str] | None
) -> None:
    """Draw all that is known of one model.

    `facts` are what its files say and `use` is what would run it here, both None when it cannot be used.
    """
    entry, known = model.entry, model.entry.known
    alias = f"  {known.alias}" if known.alias else ""
    console.print(Text.assemble((clean_text(known.name, console.encoding), "bold"), (alias, "cyan")))
    published = [
        ("family", f"{known.family or ''} {known.kind}".strip()),
        ("parameters", describe_count(known.parameters)),
        ("languages", known.languages),
        ("tokens", known.context_length),
        ("licence", known.licence),
        ("scores", known.score_scale),
        *(("quality", f"{one.figure:.4f} {one.measure} ({one.source})") for one in known.quality),
        *(("note", note) for note in known.notes),
        ("published at", known.source),
    ]
    if known.source or entry.is_ready:
        _draw_facts(console, published)
    here: list[tuple[str, Any]] = [("here", "nothing; `ce-rerank models pull` fetches it")]
    if entry.folder is not None:
        here = [("here", f"{describe_size(entry.size_bytes)} in {entry.folder}")]
    if entry.fault is not None:
        here.append(("state", f"{entry.fault.cause}. {entry.fault.hint}"))
    here.append(("revision", entry.checkpoint and entry.checkpoint.revision))
    for form in model.forms:
        size = f"{describe_size(form.size_bytes)} in {form.folder}"
        here.append(("compiled", f"not possible: {form.declined}" if form.declined else size))
    _draw_facts(console, here)
    if facts is not None:
        names = ("architecture", "labels", "activation", "instruction", "max_length", "parameters", "licence")
        files = [f"{name} ({describe_size(size)})" for name, size in facts["files"]]
        _draw_facts(console, [*((name.replace("_", " "), facts[name]) for name in names), ("files", files)])
    if use is not None:
        runs = "{engine} {precision} on {device}: {reason}".format_map(use) if "engine" in use else ""
        _draw_facts(console, [("run here by", runs), ("refused", use.get("refused"))])
    code, pickled = (facts["code"], facts["pickled"]) if facts else ((), ())
    if known.needs_remote_code or code:
        message = "It brings Python code of its own, which is run only with --trust-remote-code"
        _draw_warning(console, f"{message}: {', '.join(code) or 'read it first'}.")
    if pickled:
        message = "Its weights are pickled, which can run any code, and are loaded only with --allow-pickle"
        _draw_warning(console, f"{message}: {', '.join(pickled)}.")


def _draw_warning(console: Console, warning: str) -> None:
    console.print()
    draw_message(console, warning, label="warning:", label_style="yellow")


def _draw_facts(console: Console, facts: Iterable[tuple[str, Any]]) -> None:
    """Draw names and values in two columns, a blank line above; what is empty is left out."""
    given = [(name, value) for name, value in facts if value]
    if given:
        console.print()
    before = ""
    for name, value in given:
        text = f"{value:,}" if isinstance(value, int) else value
        text = text if isinstance(text, str) else ", ".join(text)
        label = "" if name == before else name
        draw_message(console, text, label=label.ljust(_LABEL_WIDTH), label_style="dim")
        before = name


def _short_languages(languages: Sequence[str]) -> str:
    if MULTILINGUAL in languages:
        return "many"
    return " ".join(languages) if len(languages) <= _MOST_LANGUAGES else str(len(languages))


def _short_quality(known: KnownModel) -> str:
    if not known.quality:
        return ""
    first = known.quality[0]
    return f"{first.figure:.3f}{' ' if first.measure == COMMON_MEASURE else '*'}"
