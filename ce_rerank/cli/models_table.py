"""Draws what is known of models: a line each, or one at length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.catalog import COMMON_MEASURE, MULTILINGUAL, KnownModel
from ..models.inspection import CheckpointFacts
from ..models.inventory import ModelEntry
from .console import clean_text, describe_count, describe_size, draw_message

_WITH_LICENCES = 96  # columns of the terminal from which there is room for them
_WITH_WHOLE_NAMES = 146
_LABEL_WIDTH = 12
_MOST_LANGUAGES = 2  # that are named; more are counted
_OTHER_MEASURE = "*"
_EXPLANATION = (
    "tokens: the most of query and document together. scores: their scale. nDCG: nDCG@10 on MTEB(eng, v2) "
    "retrieval, six embedders' top 100 reranked; * another measure. `ce-rerank models show MODEL` tells all."
)


def draw_models(console: Console, entries: Sequence[ModelEntry]) -> None:
    """Draw a line for each model, and below what the columns mean."""
    with_licences = console.width >= _WITH_LICENCES
    with_whole_names = console.width >= _WITH_WHOLE_NAMES
    missing = "-" if console.options.ascii_only else "—"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    if with_whole_names:
        table.add_column("whole name", overflow="fold")
    table.add_column("params", justify="right")
    table.add_column("lang")
    table.add_column("tokens", justify="right")
    if with_licences:
        table.add_column("licence")
    table.add_column("scores")
    table.add_column("nDCG", justify="right")
    table.add_column("here")
    table.add_column("size", justify="right")
    for entry in entries:
        known = entry.known
        name = clean_text(known.alias or known.name, console.encoding)
        cells = [Text(name, style="bold" if entry.is_ready else "")]
        if with_whole_names:
            cells.append(Text(clean_text(known.name, console.encoding) if known.alias else ""))
        cells += [
            Text(describe_count(known.parameters) or missing),
            Text(_short_languages(known.languages) or missing),
            Text(f"{known.context_length:,}" if known.context_length else missing),
        ]
        if with_licences:
            cells.append(Text(clean_text(known.licence or missing, console.encoding)))
        cells += [
            Text(known.score_scale or missing),
            Text(_short_quality(known) or missing),
            _draw_state(entry),
            Text(describe_size(entry.size_bytes) if entry.size_bytes else ""),
        ]
        table.add_row(*cells)
    console.print(table)
    console.print()
    console.print(Text(_EXPLANATION, style="dim"))


def draw_model(
    console: Console, entry: ModelEntry, facts: CheckpointFacts | None, use: Mapping[str, str] | None
) -> None:
    """Draw all that is known of one model.

    `facts` are what its files say and `use` is what would run it here, both None when it is not here.
    """
    known, cached = entry.known, entry.cached
    alias = f"  {known.alias}" if known.alias else ""
    console.print(Text.assemble((clean_text(known.name, console.encoding), "bold"), (alias, "cyan")))
    published = [
        ("family", " ".join(filter(None, (known.family, known.kind)))),
        ("parameters", describe_count(known.parameters)),
        ("languages", ", ".join(known.languages)),
        ("tokens", f"{known.context_length:,}" if known.context_length else ""),
        ("licence", known.licence or ""),
        ("scores", known.score_scale or ""),
        *(("quality", f"{one.figure:.4f} {one.measure} ({one.source})") for one in known.quality),
        *(("note", note) for note in known.notes),
        ("published at", known.source),
    ]
    _draw_facts(console, published)
    here = [("here", "nothing; `ce-rerank models pull` fetches it")]
    if cached is not None:
        here = [
            ("here", f"{describe_size(cached.size_bytes)} in {cached.folder}"),
            ("state", f"{cached.fault}; `ce-rerank models pull` mends it" if cached.fault else ""),
            ("revision", cached.revision or ""),
        ]
    for form in entry.compiled:
        state = (
            f"not possible: {form.declined}"
            if form.declined
            else f"{describe_size(form.size_bytes)} in {form.folder}"
        )
        here.append(("compiled", state))
    _draw_facts(console, here)
    if facts is not None:
        own = [
            ("architecture", facts.architecture),
            ("labels", ", ".join(facts.labels)),
            ("activation", facts.activation),
            ("longest pair", f"{facts.max_length:,} tokens" if facts.max_length else ""),
            ("parameters", f"{facts.parameters:,}" if facts.parameters else ""),
            ("licence", facts.licence or ""),
            ("files", ", ".join(f"{name} ({describe_size(size)})" for name, size in facts.files)),
        ]
        _draw_facts(console, own)
    if use is not None:
        runs = (
            f"{use['engine']} {use['precision']} on {use['device']}: {use['reason']}"
            if "engine" in use
            else ""
        )
        _draw_facts(console, [("run here by", runs), ("refused", use.get("refused", ""))])
    for warning in _find_warnings(known, facts):
        console.print()
        draw_message(console, warning, label="warning:", label_style="yellow")


def _find_warnings(known: KnownModel, facts: CheckpointFacts | None) -> Iterator[str]:
    """Say what of a model may run code here, and which option lets it."""
    code = ", ".join(facts.code) if facts else ""
    if code or known.needs_remote_code:
        told = "It brings Python code of its own, which is run only with --trust-remote-code"
        yield f"{told}: {code or 'read it first'}."
    if facts and facts.pickled:
        told = "Its weights are pickled, which can run any code, and are loaded only with --allow-pickle"
        yield f"{told}: {', '.join(facts.pickled)}."


def _draw_facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Draw names and values in two columns, a blank line above; what is empty is left out."""
    given = [(name, value) for name, value in facts if value]
    if given:
        console.print()
    before = ""
    for name, value in given:
        label = "" if name == before else name
        draw_message(console, value, label=label.ljust(_LABEL_WIDTH), label_style="dim")
        before = name


def _short_languages(languages: Sequence[str]) -> str:
    if MULTILINGUAL in languages:
        return "many"
    return " ".join(languages) if len(languages) <= _MOST_LANGUAGES else str(len(languages))


def _short_quality(known: KnownModel) -> str:
    if not known.quality:
        return ""
    first = known.quality[0]
    return f"{first.figure:.3f}{' ' if first.measure == COMMON_MEASURE else _OTHER_MEASURE}"


def _draw_state(entry: ModelEntry) -> Text:
    if not entry.size_bytes:
        return Text("")
    if not entry.is_ready:
        return Text("part", style="yellow")
    return Text("compiled" if entry.is_compiled else "cached", style="green")
