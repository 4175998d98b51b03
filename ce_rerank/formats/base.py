"""The door to the formats: which format a source is in, and its rows and documents."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from ..errors import InputError, UnavailableError, UsageError
from ..types import Document
from .delimited import read_delimited_rows
from .fields import TEXT_FIELDS, FieldRules
from .jsonl import read_json_rows, read_jsonl_rows
from .source import (
    LookAhead,
    Readable,
    Reject,
    Row,
    Source,
    as_source,
    raise_at_once,
    read_whole_text,
    suffix_without_compression,
)
from .strict_json import decode_json
from .text import read_text_rows

log = logging.getLogger("ce_rerank")

InputFormat = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]

INPUT_FORMATS: tuple[str, ...] = get_args(InputFormat)
"""What `--from` takes."""

FORMAT_OF_SUFFIX: dict[str, InputFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


class RowReader(Protocol):
    """Reads the rows of one format from decompressed bytes; see `Reject` for rows that cannot be read."""

    def __call__(self, stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
        """Give the rows one at a time."""
        ...


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How documents are to be read; the defaults look for themselves.

    `format` is one of `INPUT_FORMATS`. `text_fields` and `id_field` name fields, dotted paths among them; see
    `FieldRules`. With `whole_files` a source is one document, whatever is in it.
    """

    format: str | None = None
    text_fields: tuple[str, ...] = ()
    id_field: str | None = None
    whole_files: bool = False

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in INPUT_FORMATS:
            raise UsageError(
                f'There is no input format "{self.format}".', hint=f"Give one of {', '.join(INPUT_FORMATS)}."
            )

    @property
    def field_rules(self) -> FieldRules:
        """Which fields make a document."""
        return FieldRules(self.text_fields, self.id_field)


def read_documents(readable: Readable, options: ReadOptions = ReadOptions()) -> Iterator[Document]:
    """Read the documents of a file or stream, one at a time.

    Raises InputError, naming file and line, for what cannot be read. A source without documents is warned of;
    documents whose text is blank are read like any other, and counted in one warning at the end.
    """
    source = as_source(readable)
    if options.whole_files:
        yield _read_whole_file(source)
        return
    rules = options.field_rules
    count = blank = 0
    first_blank = ""
    for value, origin in read_rows(source, options):
        document = rules.document(value, origin)
        count += 1
        if not document.text or document.text.isspace():
            blank += 1
            first_blank = first_blank or origin
        yield document
    if not count:
        log.warning("%s: no documents in it.", source.name)  # a search without hits
    if blank:
        log.warning(
            "%s: %d of %d documents have no text, and are scored all the same (the first: %s).",
            source.name, blank, count, first_blank,
        )  # fmt: skip


def read_rows(
    readable: Readable, options: ReadOptions = ReadOptions(), reject: Reject | None = None
) -> Iterator[Row]:
    """Read the rows of a file or stream as they are, one at a time; there may be none.

    A row that cannot be read raises InputError. With `reject`, it is given the error and the row's own text
    instead, and the reading goes on, except where what follows can no longer be told apart.
    """
    source = as_source(readable)
    with source.open() as stream:
        format = choose_format(source, stream, options)
        yield from row_reader(format)(stream, source.name, reject or raise_at_once)


def choose_format(source: Source, stream: LookAhead, options: ReadOptions) -> InputFormat:
    """Give the format that the options name, else the one of the suffix, else that of the first bytes."""
    if options.format is not None:
        return cast(InputFormat, options.format)
    suffix = suffix_without_compression(source.path) if source.path else ""
    if suffix in FORMAT_OF_SUFFIX:
        return FORMAT_OF_SUFFIX[suffix]
    format = sniff_format(stream.look(_has_a_line), options.text_fields)
    log.info("%s: read as %s, going by its first bytes (--from says otherwise).", source.name, format)
    return format


def sniff_format(head: bytes, text_fields: tuple[str, ...] = ()) -> InputFormat:
    """Tell the format from the first bytes, up to the end of the first line that is not blank.

    What starts like JSON is JSON, even if broken: better an error than braces scored as text. A header is
    recognised by a column with one of the usual names for text, or one of `text_fields`.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if re.match(r"\[\s*([{\"\]]|$)", text):
        return "json"
    line = re.split(r"[\r\n]", text, maxsplit=1)[0].strip()
    if re.match(r"\{\s*([\"}]|$)", line) or _is_json_string(line):
        return "jsonl"
    for format, delimiter in (("tsv", "\t"), ("csv", ",")):
        if _is_header(line.split(delimiter), {*TEXT_FIELDS, *text_fields}):
            return cast(InputFormat, format)
    return "text"


def _is_json_string(line: str) -> bool:
    try:
        return line.startswith('"') and isinstance(decode_json(line, ""), str)
    except InputError:
        return False


def _is_header(cells: list[str], text_fields: set[str]) -> bool:
    # A line of prose may well hold the word "text" between commas, but not without a space around it.
    names = [cell.removeprefix('"').removesuffix('"') for cell in cells]
    tight = all(name == name.strip() for name in names)
    return len(names) > 1 and tight and not text_fields.isdisjoint(names)


def _has_a_line(head: bytes) -> bool:
    # 64 KiB without a line end is a long line of text, or the only line of a JSON array.
    return b"\n" in head.removeprefix(b"\xef\xbb\xbf").lstrip() or len(head) >= 1 << 16


def row_reader(format: InputFormat) -> RowReader:
    """Give what reads the rows of a format; raises UnavailableError when its package is missing."""
    if format == "parquet":
        return _parquet_reader()
    return _TEXT_READERS[format]


_TEXT_READERS: dict[InputFormat, RowReader] = {
    "text": read_text_rows,
    "jsonl": read_jsonl_rows,
    "json": read_json_rows,
    "csv": functools.partial(read_delimited_rows, delimiter=","),
    "tsv": functools.partial(read_delimited_rows, delimiter="\t"),
}


def _parquet_reader() -> RowReader:
    try:
        from .parquet import read_parquet_rows
    except ModuleNotFoundError:
        raise UnavailableError(
            "Reading Parquet needs the pyarrow package.", hint="Install it: pip install 'ce-rerank[parquet]'"
        ) from None
    return read_parquet_rows


def _read_whole_file(source: Source) -> Document:
    text = read_whole_text(source)
    if not text or text.isspace():
        log.warning("%s: no text in it; it is scored all the same.", source.name)
    return Document(text, id=source.name if source.path else "-", origin=source.name)
