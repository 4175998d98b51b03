"""`ce-rerank rank`: one query, some documents, a ranking."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from ..errors import UsageError
from ..formats.base import FORMAT_OF_SUFFIX, InputFormat, ReadOptions, read_documents
from ..formats.output import open_output, require_other_file
from ..formats.rows import WriteOptions
from ..formats.source import Source, read_query
from ..formats.trec import require_run_id
from ..formats.writers import open_writer
from ..types import Document, Query, Ranking
from .console import messages, stdout_console
from .options import InputOptions, MannerOptions, ModelOptions, OutputOptions, SelectionOptions, as_keywords
from .ranking_table import draw_ranking

log = logging.getLogger("ce_rerank")

OutputFormat = Literal["table", "jsonl", "json", "csv", "tsv", "text", "trec"]

_FORMAT_OF_RUN = {".trec": "trec", ".run": "trec"}
_OUTPUT = "Output"
_INPUT = "Input"


def rank(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY] [DOCUMENT]...", help="The query, then documents.", show_default=False
        ),
    ] = None,
    *,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            "-q",
            metavar="TEXT",
            rich_help_panel=_INPUT,
            help="The query; every argument is then a document.",
        ),
    ] = None,
    query_file: Annotated[
        Path | None,
        typer.Option(
            "--query-file", metavar="PATH", rich_help_panel=_INPUT, help="Read the query from a file."
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="PATH",
            rich_help_panel=_INPUT,
            help="Read documents from a file; - is stdin. Repeat it for several.",
        ),
    ] = None,
    source_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--from",
            rich_help_panel=_INPUT,
            show_default=False,
            help="The format of the documents. Default: by suffix, else by looking.",
        ),
    ] = None,
    whole_files: Annotated[
        bool,
        typer.Option(
            "--whole-files",
            rich_help_panel=_INPUT,
            help="Each file is one document, and the arguments name files, too.",
        ),
    ] = False,
    fields: InputOptions,
    selection: SelectionOptions,
    to: Annotated[
        OutputFormat | None,
        typer.Option(
            "--to",
            rich_help_panel=_OUTPUT,
            show_default=False,
            help="Default: by the suffix of --output; else a table on a terminal, jsonl anywhere else.",
        ),
    ] = None,
    output: OutputOptions,
    no_text: Annotated[
        bool, typer.Option("--no-text", rich_help_panel=_OUTPUT, help="Leave the text out.")
    ] = False,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            rich_help_panel=_OUTPUT,
            help="Add the rank, the tokens read, whether text was cut, and the best passage.",
        ),
    ] = False,
    model: ModelOptions,
    manners: MannerOptions,
) -> None:
    """Rank documents against one query, best first.

    Documents are arguments, files (-f) or stdin.
    """
    options = selection.rank_options()
    with messages(quiet=manners.quiet, verbose=manners.verbose) as activity:
        texts = list(arguments or [])
        asked = _read_query(texts, query, query_file)
        if output.output is not None:
            queries = [] if query_file is None else [str(query_file)]
            require_other_file(output.output, [*queries, *(file or []), *(texts if whole_files else [])])
        reading = fields.read_options(source_format, whole_files=whole_files)
        documents = _read_documents(texts, file or [], reading, query_file)
        wanted = to or _default_format(output.output)
        if wanted == "trec":
            for place, document in enumerate(documents):
                require_run_id(document.id, document.origin or f"document {place}")
        writing = WriteOptions(not no_text, details)
        if wanted != "table":
            open_writer(wanted, io.BytesIO(), writing)  # what it refuses, it refuses before the work
        with _open_results(output.output) as stream:
            from ..reranker import Reranker

            activity.stage("Loading the model")
            reranker = Reranker(**as_keywords(model))
            activity.start(total=len(documents))
            ranking = reranker.rank(asked, documents, **as_keywords(options), on_progress=activity.advance)
            activity.stop()
            _write(ranking, stream, wanted, replace(writing, model=reranker.info.description))


def _read_query(texts: list[str], query: str | None, query_file: Path | None) -> Query:
    """Take the query from where it was given; without an option it is the first of `texts`, taken off."""
    if query is not None and query_file is not None:
        raise UsageError("Both --query and --query-file are given.", hint="Give one of them.")
    if query_file is not None:
        return Query(read_query(Source.from_name(str(query_file))), origin=str(query_file))
    if query is None:
        if not texts:
            raise UsageError(
                "There is no query.", hint="Give it first, or with -q, or in a file with --query-file."
            )
        query = texts.pop(0)
    _require_text(query, "The query")
    if not query.strip():
        raise UsageError("The query is empty.", hint="Give some words to rank by.")
    return Query(query)


def _read_documents(
    texts: list[str], files: list[str], options: ReadOptions, query_file: Path | None
) -> list[Document]:
    """Read the documents: arguments first, then files in their order, else stdin when it is piped."""
    is_query_stdin = query_file == Path("-")
    if options.whole_files:
        _require_no_rules(options, "--whole-files reads none")
        texts, files = [], [*texts, *files]
    elif texts and not files:
        _require_no_rules(options, "all documents are arguments")
    if not texts and not files:
        if is_query_stdin or sys.stdin.isatty():
            raise UsageError(
                "There are no documents.",
                hint="Give them after the query, in files with -f, or through a pipe.",
            )
        files = ["-"]
    if files.count("-") + is_query_stdin > 1:
        raise UsageError("stdin is named more than once.", hint="Give -f - once.")
    for place, text in enumerate(texts):
        _require_text(text, f"Argument {place + 1} of the documents")
    documents = [Document(text) for text in texts]
    if blank := sum(not text.strip() for text in texts):
        log.warning(
            "%d of the %d documents that are arguments have no text, and are scored all the same.",
            blank, len(texts),
        )  # fmt: skip
    for file in files:
        documents += read_documents(Source.from_name(file), options)
    return documents


def _require_text(text: str, name: str) -> None:
    """Refuse an argument with bytes that are no text; Python hands them on as halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 (character {error.start + 1}).", hint="Convert it, or give it in a file."
        ) from None


def _require_no_rules(options: ReadOptions, reason: str) -> None:
    """Refuse what says how rows are read where none are."""
    given = {
        "--from": options.format,
        "--text-field": options.text_fields,
        "--id-field": options.id_field,
    }
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} is about the rows of a file, and {reason}.", hint=f"Leave {option} out."
            )


def _open_results(path: Path | None) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if path is None else open_output(path)


def _default_format(path: Path | None) -> str:
    if path is not None:
        return _FORMAT_OF_RUN.get(path.suffix.lower()) or FORMAT_OF_SUFFIX.get(path.suffix.lower(), "jsonl")
    return "table" if sys.stdout.isatty() else "jsonl"


def _write(ranking: Ranking, stream: BinaryIO, format: str, options: WriteOptions) -> None:
    if format != "table":
        writer = open_writer(format, stream, options)
        writer.write(ranking)
        writer.close()
        return
    drawn = io.StringIO()
    on_terminal = stream is sys.stdout.buffer
    console = stdout_console() if on_terminal else stdout_console(drawn)
    draw_ranking(ranking, console, details=options.details, with_text=options.with_text)
    if not on_terminal:
        stream.write(drawn.getvalue().encode())
