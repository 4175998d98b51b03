"""Read a source: find its format, read its rows, and make documents of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from ..errors import InputError, UsageError, missing_package
from ..types import Document
from .delimited import SEP_LINE, read_table_rows
from .fields import ID_FIELDS, QUERY_FIELDS, QUERY_ID_FIELDS, TEXT_FIELDS, FieldRules, MissingFieldError
from .json import encode_json, read_json_rows
from .source import (
    LookAhead,
    Reject,
    Row,
    Source,
    raise_at_once,
    read_lines,
    read_whole_text,
    suffix_without_compression,
)

log = logging.getLogger("ce_rerank")

InputFormat = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]

FORMAT_OF_SUFFIX: dict[str, InputFormat] = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet",
}  # fmt: skip

_NOT_READ = {
    b"ARROW1": "an Arrow file (Feather)",
    b"FEA1": "a Feather file",
    b"PK\3\4": "a ZIP file (Excel's .xlsx are such)",
}
# An array, an object, or a line that is a string. If it is broken later, it is still JSON: an error is better
# than scores of braces.
_JSON = re.compile(r'\s*(\[[\s\[]*([{"\]]|\Z)|\{\s*(["}]|\Z)|"([^"\\\r\n]|\\.)*"\s*([\r\n]|\Z))')
_HEADER = re.compile(r"[A-Za-z_][\w.-]*(?:([,;]| ?\| ?)[A-Za-z_][\w.-]*)+")
_BORDER = re.compile(r"(?=.*[+|\u2500-\u257f])[\s|+=:\u2500-\u257f-]{3,}")  # ----+-----, or box drawing
_LOOK_BYTES = 1 << 16  # enough for a header; a longer line is text, or an array on one line
_HEADER_HINT = " Line 1 was read as the header; if it is a row, name the columns: --columns id,text"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class ReadOptions(FieldRules):
    """How documents are read; by default the format and the fields are detected.

    `format` is an `InputFormat`. With `whole_files` a source is one document, whatever is in it. `columns`
    names the columns of a table without a header, and `delimiter` is the character between its cells. With
    `id_and_text`, as in BEIR's collections, lines of TSV without a header have an id and a text.
    """

    format: str | None = None
    whole_files: bool = False
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    id_and_text: bool = False

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise UsageError(f"The delimiter is {self.delimiter!r}.", hint="Give one character.")
        if len(set(self.columns)) < len(self.columns) or "" in self.columns:
            raise UsageError("The columns need a name each.", hint="For example: --columns id,text")
        if self.format == "text" and self.are_rows_objects:
            raise UsageError("Lines of text have no fields.", hint="Leave out --from text.")

    @property
    def are_rows_objects(self) -> bool:
        """Whether an option names fields, which lines of text do not have."""
        return bool(self.text_fields or self.id_field or self.columns or self.delimiter or self.id_and_text)

    @property
    def text_names(self) -> set[str]:
        """The names of fields that are in the header of a table of texts."""
        return {*TEXT_FIELDS, *self.text_fields, *(QUERY_FIELDS if self.id_and_text else ())}


def read_documents(
    source: Source, options: ReadOptions = ReadOptions(), reject: Reject = raise_at_once
) -> Iterator[Document]:
    """Read the documents of a file or stream, one at a time; warn if there are none.

    Rows that cannot be read are given to `reject`, which by default raises an InputError with file and line.
    Raises InputError for a file that cannot be read.
    """
    if options.whole_files:
        yield Document(read_whole_text(source), source.name if source.path else "-", origin=source.name)
        return
    is_empty = True
    for document in read_as(options.document, source, options, reject):
        is_empty = False
        yield document
    if is_empty:
        log.warning("%s: no documents in it.", source.name)


def read_as(
    make: Callable[[Any, str], Made],
    source: Source,
    options: ReadOptions,
    reject: Reject = raise_at_once,
    skip: Callable[[str], bool] = str.isspace,
) -> Iterator[Made]:
    """Read the rows of a file or stream, one at a time, and yield `make(value, origin)` for each.

    For a row that cannot be read, or for which `make` raises InputError, `reject` gets the error and the
    row's text; by default it raises the error. After that the next row is read, if it can be found. Lines of
    JSON for which `skip` is true are left out.
    """
    with source.open() as stream:
        format = choose_format(source, stream, options)
        for value, origin in read_rows(format, stream, source.name, reject, options, skip):
            try:
                made = make(value, origin)
            except InputError as error:
                if isinstance(error, MissingFieldError) and format in ("csv", "tsv") and not options.columns:
                    error.hint += _HEADER_HINT
                reject(error, encode_json(value))
            else:
                yield made


def choose_format(source: Source, stream: LookAhead, options: ReadOptions) -> InputFormat:
    """Return the format that the options name, or else the suffix, or else the first bytes."""
    if options.format is not None:
        return cast(InputFormat, options.format)
    named = FORMAT_OF_SUFFIX.get(suffix_without_compression(source.path)) if source.path else None
    if named is not None and named != "text":
        return named
    stream.peek_line(_LOOK_BYTES)
    head = stream.peek(0)
    if kind := next((kind for magic, kind in _NOT_READ.items() if head.startswith(magic)), ""):
        raise InputError(f"{source.name}: {kind}, which is not read.", hint="Save it as CSV or Parquet.")
    format: InputFormat = "text"
    if named is None or options.are_rows_objects:
        format = sniff_format(head, options.text_names)
        if format == "text" and options.are_rows_objects:
            has_tabs = b"\t" in head.lstrip().partition(b"\n")[0] and not options.delimiter
            format = "tsv" if has_tabs or options.id_and_text else "csv"
    if format == "text" and (hint := _table_hint(head)):
        log.warning("%s: read as text, a document a line, but it looks like a table. %s", source.name, hint)
    if named is None:
        log.info("%s: read as %s, going by its first bytes (--from says otherwise).", source.name, format)
    return format


def sniff_format(head: bytes, text_names: Collection[str] = ()) -> InputFormat:
    """Return the format that the first bytes show, up to the end of the first line that is not blank.

    The header of a table is recognised by a column with one of `text_names`.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode(errors="replace")
    if _JSON.match(text):
        return "json"
    line = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0].strip()
    if SEP_LINE.fullmatch(line):
        return "csv"
    for delimiter in "\t,;|":
        cells = [cell.removeprefix('"').removesuffix('"') for cell in line.split(delimiter)]
        # Prose may have the word "text" between commas, but then with spaces around it.
        if all(cell == cell.strip() for cell in cells) and not set(cells).isdisjoint(text_names):
            return "tsv" if "\t" in line else "csv"
    return "text"


def _table_hint(head: bytes) -> str:
    """Return a hint for lines with drawn borders, with tabs everywhere, or with a header of plain names."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", head.decode(errors="replace")) if line.strip()]
    if any(map(_BORDER.fullmatch, lines[:2])):
        return "Let it be written as CSV: psql --csv, duckdb -csv, mysql --batch."
    if lines and all("\t" in line for line in lines[:-1] or lines):  # the last may be cut off
        return "Give --from tsv to read it as one."
    header = _HEADER.fullmatch(lines[0]) if lines else None
    if header and all(header[1] in line for line in lines[1:2]):
        return "Give --from csv to read it as one."
    return ""


def read_rows(
    format: InputFormat,
    stream: LookAhead,
    name: str,
    reject: Reject,
    options: ReadOptions = ReadOptions(),
    skip: Callable[[str], bool] = str.isspace,
) -> Iterator[Row]:
    """Read the rows of a format from decompressed bytes; `name` is for messages.

    Raises UnavailableError if the format's package is missing. See `read_as` for the other arguments.
    """
    if format == "parquet":
        try:
            from .parquet import read_parquet_rows
        except ModuleNotFoundError:
            raise missing_package("Reading Parquet needs the pyarrow package.", "parquet") from None
        return read_parquet_rows(stream, name)
    if format == "text":
        return read_text_rows(stream, name, reject)
    if format not in ("csv", "tsv"):
        return read_json_rows(stream, name, reject, skip=skip)
    is_tsv, columns = format == "tsv", options.columns
    id_names = {*ID_FIELDS, *QUERY_ID_FIELDS, (options.id_field or "").lower()}
    if is_tsv and options.id_and_text and not columns:
        cells = stream.peek_line(_LOOK_BYTES).decode(errors="replace").split(options.delimiter or "\t")
        if options.text_names.isdisjoint(cells) or id_names.isdisjoint(map(str.lower, cells)):
            columns = ("id", "text")
    return read_table_rows(
        stream, name, reject, is_tsv=is_tsv, columns=columns, delimiter=options.delimiter, id_names=id_names
    )


def read_text_rows(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read each line that is not blank as a row, without its line end."""
    for line, number, fault in read_lines(stream, name):
        if fault:
            reject(fault, line.rstrip("\r\n"))
        elif not line.isspace():
            yield Row(line.rstrip("\r\n"), f"{name}:{number}")


def read_file_names(source: Source) -> list[str]:
    """Read names of files: one on each line or, if there are NULs (`find -print0`), one before each NUL."""
    with source.open() as stream:
        data = b"".join(stream)
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name]


def walk_folders(names: Sequence[str], reject: Reject = raise_at_once) -> list[str]:
    """Replace folders by the text files in them; warn of what is left out, and of folders without any.

    `reject` gets the error for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        problem = f"{error.filename}: cannot be read ({error.strerror})."
        reject(InputError(problem, hint="Give --on-error skip to leave it out."), "")

    files: list[str] = []
    left_out: list[str] = []
    for name in names:
        if name == "-" or not Path(name).is_dir():
            files.append(name)
            continue
        before = len(files)
        for folder, folders, inner in os.walk(name, onerror=refuse):
            folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
            links = [entry for entry in folders if Path(folder, entry).is_symlink()]  # not followed
            for path in (Path(folder, entry) for entry in sorted([*inner, *links])):
                (files if _is_text(path) else left_out).append(str(path))
        if len(files) == before:
            log.warning("%s: no files to read in it.", name)
    for entry in left_out:
        log.info("Left out: %s", entry)
    if left_out:
        log.warning(
            "%d hidden, binary or special files and linked folders were left out (-v names them).",
            len(left_out),
        )
    return files


def _is_text(path: Path) -> bool:
    if path.name.startswith(".") or (path.exists() and not path.is_file()):
        return False
    try:
        with Source.from_path(path).open() as stream:
            return b"\0" not in stream.peek(1 << 12)
    except InputError:
        return True  # reading it will raise the error
