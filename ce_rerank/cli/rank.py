"""`ce-rerank rank`: one query, some documents, a ranking."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated, ClassVar, Literal

import typer

from ..errors import ROWS_LEFT_OUT, InputError, UsageError
from ..formats.documents import (
    FORMAT_OF_SUFFIX,
    InputFormat,
    ReadOptions,
    read_documents,
    read_file_names,
    walk_folders,
)
from ..formats.output import open_output, require_other_file
from ..formats.source import Reject, Source, raise_at_once, read_whole_text
from ..formats.trec import require_run_id
from ..formats.writers import ResultWriter, WriteOptions, require_format
from ..ranking import select_top
from ..types import Candidates, Document, Query, Ranking
from .console import Activity, make_console
from .options import (
    COMMANDS,
    FROM,
    INPUT,
    OUTPUT,
    InputOptions,
    MessageOptions,
    ModelOptions,
    OnError,
    OutputOptions,
    SelectionOptions,
    format_of_output,
    option,
    option_field,
)
from .ranking_table import cut_to_excerpts, draw_ranking

log = logging.getLogger("ce_rerank")

OutputFormat = Literal["table", "jsonl", "json", "csv", "tsv", "text", "trec"]

_FORMATS = {**FORMAT_OF_SUFFIX, ".trec": "trec", ".run": "trec"}
del _FORMATS[".parquet"]  # many queries make a table, see batch

_loaded: list[object] = []  # the model: to free it when the command returns would take 30 ms


@dataclass(frozen=True)
class SourceOptions:
    """Where the query and the documents come from, besides the arguments."""

    panel: ClassVar = INPUT
    query: str | None = option_field(
        None, "--query", "-q", metavar="TEXT", help="The query; all arguments are then documents."
    )
    query_file: str | None = option_field(None, metavar="PATH", help="Read the query from a file.")
    file: list[str] | None = option_field(
        None, "--file", "-f", metavar="PATH", help="Read documents from a file, - for stdin. Repeatable."
    )
    files_from: str | None = option_field(
        None, metavar="FILE", help="Read documents from the files that FILE names, one a line or NUL-ended."
    )
    source_format: Annotated[InputFormat | None, FROM] = None
    whole_files: bool = option_field(False, help="Each file is one document; arguments name files, too.")
    on_error: OnError = option_field("stop", help="Stop at what cannot be read, or leave it out (exit 5).")


def rank(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY] [DOCUMENT]...", help="The query, then documents."),
    ] = None,
    *,
    sources: SourceOptions,
    fields: InputOptions,
    selection: SelectionOptions,
    to: Annotated[
        OutputFormat | None,
        option(
            "--to", panel=OUTPUT, help="Default: by suffix of -o; else a table on a terminal, else jsonl."
        ),
    ] = None,
    output: OutputOptions,
    model: ModelOptions,
    messages: MessageOptions,
) -> int:
    """Rank documents against one query, best first.

    Documents are arguments, files (-f) or stdin.
    """
    options, path = selection.rank_options(), output.output
    default = "table" if path is None and sys.stdout.isatty() else "jsonl"
    format = to or format_of_output(path, _FORMATS, default)
    writing = WriteOptions(not output.no_text, output.details)
    if format != "table":
        require_format(format, writing)
    with Activity(messages) as activity:
        left_out: list[InputError] = []

        def leave_out(error: InputError, row: str) -> None:
            log.info("Left out: %s", error.for_shell)
            left_out.append(error)

        reject = leave_out if sources.on_error == "skip" else raise_at_once
        reading = fields.read_options(sources.source_format, whole_files=sources.whole_files)
        texts = list(arguments or [])
        query = _read_query(texts, sources)
        texts, files = _name_documents(texts, sources, reading, reject)
        read = [name for name in (sources.query_file, sources.files_from, *files) if name]  # - for stdin
        if path is not None:
            require_other_file(path, read)
        documents: list[Document] = []
        places: list[int] = []
        for document in _read_documents(texts, files, reading, reject):
            place = len(documents) + len(left_out)
            try:
                if format == "trec":
                    require_run_id(document.id, document.origin or f"document {place}", document.fields)
            except InputError as error:
                reject(error, "")
                continue
            places.append(place)
            documents.append(document)
        if left_out:
            log.warning("Rows or files left out: %d. The first: %s", len(left_out), left_out[0].for_shell)
        with open_output(path, activity.stdout(format)) as stream:
            ranking = Ranking(query, ())
            if documents:
                from ..reranker import Reranker

                activity.stage("Loading the model")
                reranker = Reranker(**asdict(model))
                _loaded.append(reranker)
                writing = replace(writing, model=reranker.info.description)
                activity.start(len(documents))
                # Without --min-score, so that the best score is known if it keeps none.
                everything = replace(options, min_score=None)
                candidates = Candidates(query, documents, places=places)
                (ranking,) = reranker.rank_lists([candidates], everything, on_progress=activity.advance)
                activity.stop()
                if options.min_score is not None:
                    ranking = _keep_from_min_score(ranking, options.min_score, options.scores)
                read_part = ranking.coverage
                if options.bm25 is not None:
                    log.info("BM25 left out %s of %s documents.", f"{read_part.left_out:,}", len(documents))
                for sentence in read_part.describe(reranker.info.max_length, options.long):
                    log.warning("%s", sentence)
            if "-" not in read:
                _warn_of_unread_pipe()
            if format == "table":
                drawn = io.StringIO()
                console = make_console(None if stream is sys.stdout.buffer else drawn)
                draw_ranking(ranking, console, details=writing.details, with_text=writing.with_text)
                stream.write(drawn.getvalue().encode())
            else:
                writer = ResultWriter(format, stream, writing)
                writer.write(cut_to_excerpts(ranking) if format == "text" else ranking)
                writer.close()
    return ROWS_LEFT_OUT if left_out else 0


def _read_query(texts: list[str], sources: SourceOptions) -> Query:
    """Return the query; without an option for it, take the first of `texts`."""
    query, file = sources.query, sources.query_file
    if query is not None and file is not None:
        raise UsageError("Both --query and --query-file are given.", hint="Give one of them.")
    if file is not None:
        source = Source.from_name(file)
        query = read_whole_text(source).removesuffix("\n").removesuffix("\r")
        if not query.strip():
            raise InputError(f"{source.name}: no query in it.", hint="Write the query there, as plain text.")
        return Query(query, origin=file)
    if query is None:
        if not texts:
            hint = "Give it first, or with -q, or in a file with --query-file."
            raise UsageError("There is no query.", hint=hint)
        query = texts.pop(0)
        for command in COMMANDS:
            if _is_an_edit_apart(query, command):
                log.warning("%s is taken for a query; the command is called %s.", query, command)
        if os.path.isfile(query):  # noqa: PTH113  # Path.is_file raises if the query is too long for a name
            log.warning("The query is %s, which is the name of a file. Is the query missing?", query)
    _require_utf8(query)
    if not query.strip():
        raise UsageError("The query is empty.", hint="Give some words to rank by.")
    return Query(query)


def _is_an_edit_apart(word: str, command: str) -> bool:
    """Whether a word is a command with a letter more, less or another, or with two that changed places."""
    cuts = [(command[:place], command[place:]) for place in range(len(command) + 1)]
    edited = [f"{start}.?{end}|{start}.?{end[1:]}|{start}{end[1::-1]}{end[2:]}" for start, end in cuts]
    return re.fullmatch("|".join(edited), word) is not None


def _require_utf8(text: str) -> None:
    """Refuse an argument that is not UTF-8; Python turns its bytes into halves of characters."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"The argument {text!a} is not UTF-8.", hint="Convert it, or give it in a file.")


def _name_documents(
    texts: list[str], sources: SourceOptions, reading: ReadOptions, reject: Reject
) -> tuple[list[str], list[str]]:
    """Return the documents that are arguments, and the names of the files; - is stdin."""
    files = list(sources.file or [])
    if sources.files_from is not None:
        files += read_file_names(Source.from_name(sources.files_from))
        if not texts and not files:
            log.warning("--files-from %s names no files.", sources.files_from)
            return [], []
    taken = [sources.query_file, sources.files_from].count("-")
    if not texts and not files:
        if taken or sys.stdin.isatty():
            hint = "Give them after the query, in files with -f, or through a pipe."
            raise UsageError("There are no documents.", hint=hint)
        files = ["-"]
    if files.count("-") + taken > 1:
        raise UsageError("stdin is named more than once.", hint="Give -f - once.")
    if (reading.whole_files or not files) and reading != ReadOptions(whole_files=reading.whole_files):
        raise UsageError(
            "An option is about the rows of a file, and no document is a row.",
            hint="Leave out --from, --text-field, --id-field, --columns and --delimiter.",
        )
    return ([], walk_folders([*texts, *files], reject)) if reading.whole_files else (texts, files)


def _read_documents(
    texts: list[str], files: list[str], reading: ReadOptions, reject: Reject
) -> Iterator[Document]:
    """Yield the documents of the arguments, then those of the files."""
    for text in texts:
        _require_utf8(text)
        yield Document(text)
    if name := next(filter(os.path.exists, texts), None):
        kind, way = ("file", "-f before each file") if os.path.isfile(name) else ("folder", "--whole-files")  # noqa: PTH113
        log.warning("%s is a %s, and its name is ranked as a text. Give %s.", name, kind, way)
    for name in files:
        try:
            yield from read_documents(Source.from_name(name), reading, reject)
        except InputError as error:  # of the file, or raised by `reject`
            reject(error, "")


def _keep_from_min_score(ranking: Ranking, min_score: float, scale: str) -> Ranking:
    """Leave out results below `min_score`; if none is left, warn with the best score."""
    scores = [hit.score for hit in ranking]
    kept = select_top(scores, min_score=min_score)
    if scores and not kept:
        log.warning(
            "None of %s documents scores %g or more; the best scores %g (--scores %s).",
            f"{ranking.coverage.documents:,}", min_score, scores[0], scale,
        )  # fmt: skip
    return replace(ranking, results=tuple(ranking.results[place] for place in kept))


def _warn_of_unread_pipe() -> None:
    """Warn of data in a pipe that nobody reads, without reading it or waiting for it."""
    with suppress(ImportError, OSError, ValueError):  # Windows; a stdin that is no file
        import fcntl
        import termios

        stdin = sys.stdin.fileno()
        waiting = fcntl.ioctl(stdin, termios.FIONREAD, bytes(4))
        if stat.S_ISFIFO(os.fstat(stdin).st_mode) and any(waiting):
            log.warning("stdin has data that is not read. Give -f - to rank it too.")
