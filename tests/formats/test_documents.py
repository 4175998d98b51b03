"""Reading documents, through every format and compression, as `read_documents` gives them."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ce_rerank.errors import InputError, UnavailableError, UsageError
from ce_rerank.formats import delimited, source
from ce_rerank.formats.documents import (
    ReadOptions,
    read_documents,
    read_file_names,
    sniff_format,
    walk_folders,
)
from ce_rerank.formats.source import Source

zstandard = pytest.importorskip("zstandard", reason="needs ce-rerank[zstd]")

THREE = [{"id": "a", "text": "one"}, {"id": "b", "text": "two; lines"}, {"id": "c", "text": "dré 文"}]
JSONL = "".join(json.dumps(row) + "\n" for row in THREE).encode()
DATA = {
    "jsonl": JSONL,
    "ndjson": JSONL,
    "json": json.dumps(THREE, indent=2).encode(),
    "csv": 'id,text\na,one\nb,"two; lines"\nc,dré 文\n'.encode(),
    "tsv": "id\ttext\na\tone\nb\ttwo; lines\nc\tdré 文\n".encode(),
}
TEXTS = ["one", "two; lines", "dré 文"]


def read(source: Source, **options: Any) -> list[tuple[Any, str, str]]:
    return [(hit.id, hit.text, hit.origin) for hit in read_documents(source, ReadOptions(**options))]


def file(path: Path) -> Source:
    return Source.from_path(path)


def piped(data: bytes) -> Source:
    return Source.from_stream(io.BytesIO(data))


def texts(data: bytes, **options: Any) -> list[str]:
    return [text for _, text, _ in read(piped(data), **options)]


def failure(source: Source, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(read_documents(source, ReadOptions(**options)))
    return caught.value.for_shell


@pytest.mark.parametrize("suffix", sorted(DATA))
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_reads_the_same_by_its_suffix(tmp_path: Path, suffix: str, compression: str) -> None:
    path = tmp_path / f"hits.{suffix}{compression}"
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[compression]
    path.write_bytes(compress(DATA[suffix]))
    lines = {"json": [2, 6, 10], "csv": [2, 3, 4], "tsv": [2, 3, 4]}.get(suffix, [1, 2, 3])
    assert read(file(path)) == [
        (id, text, f"{path}:{line}") for id, text, line in zip("abc", TEXTS, lines, strict=True)
    ]


@pytest.mark.parametrize("suffix", sorted(DATA))
@pytest.mark.parametrize(
    "change",
    [
        lambda data: gzip.compress(data) + gzip.compress(b"\n"),
        lambda data: zstandard.compress(data) + zstandard.compress(b"\n"),
        b"\xef\xbb\xbf".__add__,
        lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"),
        lambda data: gzip.compress(data.decode().encode("utf-32")),
    ],
)
def test_every_format_is_recognised_in_a_stream_of_any_compression_and_encoding(
    suffix: str, change: Any
) -> None:
    assert texts(change(DATA[suffix])) == TEXTS


def test_a_text_file_is_a_document_a_line_without_the_blank_ones() -> None:
    assert read(piped(b"\none\n  \n two ")) == [(None, "one", "stdin:2"), (None, " two ", "stdin:4")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_ending_ends_a_line_and_nothing_else_does(end: str) -> None:
    odd = "a\u2028b\u0085c\x0b\x0cd"
    assert texts(f"one{end}{odd}{end}three".encode()) == ["one", odd, "three"]
    assert texts(f'{{"text": "{chr(0x2028)}"}}{end}"two"{end}'.encode()) == ["\u2028", "two"]
    assert texts(f'id,text{end}1,{odd[:5]}{end}2,"x{end}y"{end}'.encode()) == [odd[:5], f"x{end}y"]
    assert texts(f"id\ttext{end}1\t{odd}{end}2\ty".encode()) == [odd, "y"]


@pytest.mark.parametrize(
    ("data", "options", "documents"),
    [
        # The delimiter is the one under which the header has the most columns, a `sep=` line, or what is said.
        (b"id;text\n1;Snow, cold\n", {"format": "csv"}, [("1", "Snow, cold")]),
        (b'sep=;\r\nid;text\r\n1;"a;b"\r\n', {"format": "csv"}, [("1", "a;b")]),
        (b"id\ttext\n1\tRain\n", {"format": "csv"}, [("1", "Rain")]),
        (b"id/text\n1/Rain, snow\n", {"delimiter": "/"}, [("1", "Rain, snow")]),
        # In CSV a quoted field may hold line ends; in TSV a line is a row, and a quote is a quote.
        (b'id,text\n1,"two\nlines"\n\n2,5" disk\n', {}, [("1", "two\nlines"), ("2", '5" disk')]),
        (b'id\ttext\n1\t"Half\n2\tends"\n', {}, [("1", '"Half'), ("2", 'ends"')]),
        # Without a header, the columns are named.
        (
            b'1\t7\twhat, is\tHalf "quoted\n', {"columns": ("qid", "pid", "query", "passage")},
            [("7", 'Half "quoted')],
        ),
        (b"1;a, b, c\n", {"columns": ("id", "text"), "format": "csv"}, [("1", "a, b, c")]),
        # A whole number with .0 is an id without.
        (b"docno,text\n1.0,a\n1.5,1.0\nx.0,\n", {}, [("1", "a"), ("1.5", "1.0"), ("x.0", "")]),
        # With an option that names fields, input is never text.
        (b"id,description\n1,Rain\n", {"text_fields": ("description",)}, [("1", "Rain")]),
        (b"text\nRain\n", {}, [(None, "Rain")]),
        # The format that is named goes before the first bytes.
        (b'{"text": "x"}\n', {"format": "text"}, [(None, '{"text": "x"}')]),
    ],
)  # fmt: skip
def test_input_as_people_have_it(data: bytes, options: Any, documents: list[tuple[Any, str]]) -> None:
    assert [(id, text) for id, text, _ in read(piped(data), **options)] == documents


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"id,description\n1,Rain\n", "--from csv"),
        (b" id | text \n----+-----\n  1 | Rain\n", "psql --csv"),
        ("┌────┬──────┐\n│ id │ text │\n".encode(), "psql --csv"),
        (b"Rain\n----\nfalls\n", ""),
        (b"Rain falls\t1\nSnow falls\t2\n", "--from tsv"),
        (b"Rain,snow\nIce\n", ""),
    ],
)
def test_what_looks_like_a_table_is_text_with_a_warning(
    data: bytes, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert texts(data) == data.decode().splitlines()
    assert [hint in message for message in caplog.messages] == ([True] if hint else [])


@pytest.mark.parametrize(
    "options", [{"format": "text", "text_fields": ("text",)}, {"delimiter": ";;"}, {"columns": ("a", "")}]
)
def test_options_that_mean_nothing_are_usage_errors(options: Any) -> None:
    with pytest.raises(UsageError):
        ReadOptions(**options)


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"[1] a footnote\n", "text"),
        (b"{{Infobox}}\n", "text"),
        (b"this has text, and more\n", "text"),
        (b'"A \\"quoted\\" string"\n', "json"),
        (b'[\n{"a": 1}', "json"),
        (b"id,text,url\n", "csv"),
        (b"sep=;\r\nid;words\r\n", "csv"),
        (b"id\ttext\n", "tsv"),
        (b"PAR1\x15\x04", "parquet"),
    ],
)
def test_formats_are_told_by_their_first_line(head: bytes, format: str) -> None:
    assert sniff_format(head, ["text"]) == format


def test_a_whole_file_is_one_document_with_its_path_as_id(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n{two}\n")
    assert read(file(path), whole_files=True) == [(str(path), "one\r\n\r\n{two}\n", str(path))]
    assert read(piped(b"all"), whole_files=True) == [("-", "all", "stdin")]


def test_rows_come_while_the_pipe_is_still_being_fed() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as pipe:
        documents = read_documents(Source.from_stream(stream))
        pipe.write(b'{"te')
        first = threading.Timer(0.1, pipe.write, [b'xt": "one"}\n'])
        last = threading.Timer(30, pipe.close)  # if too much is asked for
        for timer in (first, last):
            timer.start()
        assert next(documents).text == "one"
        pipe.write(b'{"text": "two"}\n')
        last.cancel()
        assert next(documents).text == "two"


@pytest.mark.parametrize("data", [b"", b"\n \n", b"[]", b"id,text\n"])
def test_a_source_without_documents_is_warned_of(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert texts(data) == []
    assert caplog.messages == ["stdin: no documents in it."]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"ok\nna\xefve\n", {}, "stdin:2: not UTF-8 (0xEF). If it is text, convert it, for example: iconv"),
        (b'["ok",\n"na\xefve"]', {}, "stdin:2: not UTF-8 (0xEF). If it is text, convert it, for example: iconv"),
        ("one".encode("utf-16-le"), {}, "stdin:1: not UTF-8 (0x00). If it is text, convert it, for example: iconv -f UTF-16LE"),
        (b'["a",\n"\0b"]', {}, "stdin:2: not UTF-8 (0x00)."),
        (b'{"text": "a"}\n[1]\n', {}, "stdin:2: the row is a list, not an object or a string."),
        (b"id,text\n1,a,b\n", {}, "stdin:2: 3 fields, not 2 (id, text). Give each row a field"),
        (b"id\ttext\n1\ta\n2\n", {}, "stdin:3: 1 fields, not 2 (id, text). Put one tab between"),
        (b"id,text,id\n1,a,2\n", {}, 'stdin:1: the header has "id" twice.'),
        (b"id,html\n1,a\n", {"format": "csv"}, 'stdin:2: no "text" field (has: id, html). Name it with --text-field. Line 1 was read as the header'),
        (b"1,a\n", {"columns": ("id", "t")}, 'stdin:1: no "text" field (has: id, t). Name it with --text-field.'),
        (b'id,text\n1,"a\n2,b\n', {}, "stdin:2: broken quotes (unexpected end of data; lines 2 to 3 are lost)."),
        (b"ARROW1\0\0", {}, "stdin: an Arrow file (Feather), which is not read. Save it as CSV or Parquet."),
        (gzip.compress(JSONL, mtime=0)[:-12], {}, "stdin: the data is damaged (it is cut off)."),
        (zstandard.compress(JSONL)[:-5], {}, "stdin: the data is damaged (it is cut off)."),
        (gzip.compress(JSONL, mtime=0)[:-6] + bytes(6), {}, "stdin: the data is damaged ("),
        (b"\xff\xfea\0b", {}, "stdin: the data is damaged ("),
    ],
)  # fmt: skip
def test_broken_input_is_named_with_its_place(data: bytes, options: dict[str, Any], message: str) -> None:
    assert failure(piped(data), **options).startswith(message)


def test_what_is_no_readable_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    assert failure(file(tmp_path / "zzz")) == f"{tmp_path}/zzz: cannot be read (No such file or directory)."
    assert failure(file(tmp_path)).startswith(f"{tmp_path}: cannot be read (Is a directory). Name its files;")


def test_zstd_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnavailableError, match=r"zstd needs the zstandard package\. Install it: pip install"):
        texts(zstandard.compress(b"one"))


@pytest.mark.parametrize(
    ("data", "kept", "dropped"),
    [
        (
            b'{"text": 1}\n{"b"\n[1]\n{"id": 3}\nna\xefve\n"d"\n',
            2,
            ['{"b"', "[1]", '{"id": 3}', "na\ufffdve"],
        ),
        (b'id,text\n1,a\n2\n3,"x"y\n4,"na\xefve\nfolk"\n5,b\n', 2, ["2", '3,"x"y', '4,"na\ufffdve\nfolk"']),
        (b"id\ttext\n1\ta\n2\n4\tna\xefve\n5\tb\n", 2, ["2", "4\tna\ufffdve"]),
        (b"one\nna\xefve\nthree\n", 2, ["na\ufffdve"]),
    ],
)
def test_rows_that_cannot_be_read_can_be_rejected_one_by_one(
    data: bytes, kept: int, dropped: list[str]
) -> None:
    rejected: list[str] = []
    documents = read_documents(piped(data), reject=lambda error, text: rejected.append(text))
    assert (len(list(documents)), rejected) == (kept, dropped)


def test_rows_above_the_limit_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (source, delimited):
        monkeypatch.setattr(module, "ROW_BYTES", 1 << 18)
    long = b"x" * (1 << 20)
    errors: list[str] = []
    for data in (b"one\n" + long + b"\ntwo\n", b"id,text\n1,one\n2," + long + b"\n3,two\n"):
        rows = read_documents(
            piped(gzip.compress(data)), reject=lambda error, text: errors.append(error.message)
        )
        assert [document.text for document in rows] == ["one", "two"]
    assert ["larger than 0 MiB" in error for error in errors] == [True, True]
    assert "larger than" in failure(piped(b'id,text\n1,"' + b"x\n" * (1 << 18)))
    assert "larger than" in failure(piped(long), whole_files=True)
    first = piped(gzip.compress(b'{"text": "' + long + b'"}\n{"text": "two"}\n'))
    rows = read_documents(first, reject=lambda error, text: errors.append(error.message))
    assert [document.text for document in rows] == ["two"]
    assert errors[2].startswith("stdin:1: larger than ")


def test_file_names_are_read_by_line_or_before_each_nul() -> None:
    assert read_file_names(piped(b"a.txt\nb c.txt\r\n\n")) == ["a.txt", "b c.txt"]
    assert read_file_names(piped(b"a\0b\nc\0")) == ["a", "b\nc"]


def test_folders_are_walked_without_hidden_and_binary_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, data in {
        "b.txt": b"b", "a/z.md": b"z", "a/x.py.gz": gzip.compress(b"x"), "u.txt": "u".encode("utf-16"),
        ".hidden": b"h", ".git/config": b"c", "image.png": b"\x89PNG\0", "latin.txt": b"na\xefve",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    caplog.set_level(logging.INFO)
    names = walk_folders(["-", str(tmp_path), "no such file", str(tmp_path / "empty")])
    inside = [
        str(tmp_path / name) for name in ("b.txt", "dangling", "latin.txt", "u.txt", "a/x.py.gz", "a/z.md")
    ]
    assert names == ["-", *inside, "no such file"]
    assert caplog.messages == [
        f"{tmp_path}/empty: no files to read in it.",
        *(f"Left out: {tmp_path}/{name}" for name in (".hidden", "image.png", "pipe", "a/loop")),
        "4 hidden, binary or special files and linked folders were left out (-v names them).",
    ]


def test_a_folder_that_cannot_be_read_can_be_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied", "notes")))
    errors: list[str] = []
    assert walk_folders([str(tmp_path)], lambda error, text: errors.append(error.message)) == []
    assert errors == ["notes: cannot be read (Permission denied)."]
