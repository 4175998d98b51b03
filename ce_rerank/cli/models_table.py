"""Draw models: each on a line, or all about one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engines.openvino.cache import CompiledForm
from ..models.catalog import COMMON_MEASURE, MULTILINGUAL
from ..models.checkpoint import Checkpoint
from .console import clean_text, describe_count, describe_size, draw_message, draw_plainly
from .inventory import ListedModel

_COLUMNS = {  # with the width of the terminal from which each is shown
    "model": 0, "whole name": 146, "params": 0, "lang": 0, "tokens": 0, "licence": 96, "scores": 0, "nDCG": 0,
    "here": 0, "size": 0,
}  # fmt: skip
_NUMBERS = ("params", "tokens", "nDCG", "size")
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


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint's own files say."""
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
        table.add_row(
            *(Text(clean_text(row[name], console.encoding), styles.get(name, "")) for name in columns)
        )
    draw_plainly(console, table)
    console.print()
    draw_plainly(console, Text(_EXPLANATION, style="dim"))


def _describe_row(model: ListedModel, missing: str) -> dict[str, str]:
    known, here = model.known, ""
    if model.size_bytes:
        here = ("compiled" if model.is_compiled else "cached") if model.is_ready else "part"
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
    known = model.known
    alias = f"  {known.alias}" if known.alias else ""
    console.print(Text.assemble((clean_text(known.name, console.encoding), "bold"), (alias, "cyan")))
    if known.source or model.is_ready:
        published = {
            "family": f"{known.family or ''} {known.kind}".strip(),
            "parameters": describe_count(known.parameters),
            "languages": ", ".join(known.languages),
            "tokens": known.context_length,
            "licence": known.licence,
            "scores": known.score_scale,
            "quality": [f"{one.figure:.4f} {one.measure} ({one.source})" for one in known.quality],
            "note": list(known.notes),
            "published at": known.source,
        }
        _draw_facts(console, published)
    size = f"{describe_size(model.folder_bytes)} in {model.folder}"
    here = {
        "here": size if model.folder else "nothing; `ce-rerank models pull` fetches it",
        "state": model.fault and f"{model.fault.cause}. {model.fault.hint}",
        "revision": model.checkpoint and model.checkpoint.revision,
        "compiled": [_describe_form(form) for form in model.forms],
    }
    _draw_facts(console, here)
    if facts is not None:
        names = ("architecture", "labels", "activation", "instruction", "max_length", "parameters", "licence")
        told = {name.replace("_", " "): facts[name] for name in names}
        files = ", ".join(f"{name} ({describe_size(size)})" for name, size in facts["files"])
        _draw_facts(console, {**told, "labels": ", ".join(facts["labels"]), "files": files})
    if use is not None:
        runs = "{engine} {precision} on {device}: {reason}".format_map(use) if "engine" in use else ""
        _draw_facts(console, {"run here by": runs, "refused": use.get("refused")})
    code, pickled = (facts["code"], facts["pickled"]) if facts else ((), ())
    warnings = []
    if known.needs_remote_code or code:
        message = "It brings Python code of its own, which is run only with --trust-remote-code"
        warnings.append(f"{message}: {', '.join(code) or 'read it first'}.")
    if pickled:
        message = "Its weights are pickled, which can run any code, and are loaded only with --allow-pickle"
        warnings.append(f"{message}: {', '.join(pickled)}.")
    _draw_facts(console, {"warning": warnings})


def _describe_form(form: CompiledForm) -> str:
    if form.declined:
        return f"not possible: {form.declined}"
    return f"{describe_size(form.size_bytes)} in {form.folder}"


def _draw_facts(console: Console, facts: Mapping[str, Any]) -> None:
    """Draw names and values in two columns, a line for each value of a list; leave out empty values."""
    given = {name: value for name, value in facts.items() if value}
    if given:
        console.print()
    for name, value in given.items():
        style = "yellow" if name == "warning" else "dim"
        for place, one in enumerate(value if isinstance(value, list) else [value]):
            text = f"{one:,}" if isinstance(one, int) else one
            label = ("" if place else name).ljust(_LABEL_WIDTH)
            draw_message(console, text, label=label, label_style=style)
