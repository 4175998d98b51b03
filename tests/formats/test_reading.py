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

import pytest

from ce_rerank.errors import InputError, UnavailableError, UsageError
from ce_rerank.formats.base import ReadOptions, read_documents, read_rows, sniff_format
from ce_rerank.formats.source import Source, read_query

zstandard = pytest.importorskip("zstandard", reason="needs ce-rerank[zstd]")

THREE = [{"id": "a", "text": "one"}, {"id": "b", "text": "two\nlines"}, {"id": "c", "text": "dré 文"}]
JSONL = "".join(json.dumps(row) + "\n" for row in THREE).encode()
DATA = {
    "jsonl": JSONL,
    "ndjson": JSONL,
    "json": json.dumps(THREE, indent=2).encode(),
    "csv": 'id,text\na,one\nb,"two\nlines"\nc,dré 文\n'.encode(),
    "tsv": 'id\ttext\na\tone\nb\t"two\nlines"\nc\tdré 文\n'.encode(),
}


def read(path: Path | Source, **options: Any) -> list[tuple[Any, str, str]]:
    return [(hit.id, hit.text, hit.origin) for hit in read_documents(path, ReadOptions(**options))]


def texts(data: bytes, **options: Any) -> list[str]:
    return [text for _, text, _ in read(Source.from_stream(io.BytesIO(data)), **options)]


def failure(path: Path | Source, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(read_documents(path, ReadOptions(**options)))
    return str(caught.value)


def stdin_failure(data: bytes, **options: Any) -> str:
    return failure(Source.from_stream(io.BytesIO(data)), **options)


@pytest.mark.parametrize("suffix", sorted(DATA))
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_reads_the_same_by_its_suffix(tmp_path: Path, suffix: str, compression: str) -> None:
    data = DATA[suffix]
    path = tmp_path / f"hits.{suffix}{compression}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[compression](data))
    assert [(id, text) for id, text, _ in read(path)] == [("a", "one"), ("b", "two\nlines"), ("c", "dré 文")]


@pytest.mark.parametrize("suffix", sorted(DATA))
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_every_format_is_recognised_in_a_stream(suffix: str, compress: Any) -> None:
    assert texts(compress(DATA[suffix])) == ["one", "two\nlines", "dré 文"]


def test_origins_name_file_and_line(tmp_path: Path) -> None:
    lines = {"json": [2, 6, 10], "csv": [2, 3, 5], "tsv": [2, 3, 5], "jsonl": [1, 2, 3]}
    for suffix, numbers in lines.items():
        path = tmp_path / f"h.{suffix}"
        path.write_bytes(DATA[suffix])
        assert [origin for _, _, origin in read(path)] == [f"{path}:{number}" for number in numbers]


def test_a_text_file_is_a_document_a_line_without_the_blank_ones() -> None:
    assert read(Source.from_stream(io.BytesIO(b"\none\n  \n two \nthree"))) == [
        (None, "one", "stdin:2"), (None, " two ", "stdin:4"), (None, "three", "stdin:5"),
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_ending_ends_a_line_and_nothing_else_does(end: str) -> None:
    odd = "a\u2028b\u0085c\x0b\x0cd"
    assert texts(f"one{end}{odd}{end}three".encode()) == ["one", odd, "three"]
    assert texts(f'{{"text": "{chr(0x2028)}"}}{end}"two"{end}'.encode()) == ["\u2028", "two"]
    assert texts(f'id,text{end}1,{odd[:5]}{end}2,"x{end}y"{end}'.encode()) == [odd[:5], f"x{end}y"]


@pytest.mark.parametrize("suffix", sorted(DATA))
def test_a_byte_order_mark_is_no_part_of_the_text(suffix: str) -> None:
    assert texts(b"\xef\xbb\xbf" + DATA[suffix]) == ["one", "two\nlines", "dré 文"]


def test_bare_strings_are_documents_in_jsonl_and_json() -> None:
    assert texts(b'"one"\n"two"\n') == ["one", "two"]
    assert texts(b'["one", "two"]') == ["one", "two"]


def test_the_format_named_goes_before_suffix_and_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_bytes(JSONL)
    assert len(read(path, format="jsonl")) == 3
    assert texts(b'{"text": "x"}\n', format="text") == ['{"text": "x"}']


def test_an_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r'There is no input format "xml"\. Give one of text, jsonl, json'):
        ReadOptions(format="xml")


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"", "text"),
        (b"plain words", "text"),
        (b"[1] a footnote\n", "text"),
        (b"{{Infobox}}\n", "text"),
        (b'"Quoted," he said.\n', "text"),
        (b"this has text, and more\n", "text"),
        (b"text\nsingle column\n", "text"),
        (b'\n \n{"a": 1}\n', "jsonl"),
        (b'{"broken\n', "jsonl"),
        (b"{\n", "jsonl"),
        (b'[\n{"a": 1}', "json"),
        (b"[]", "json"),
        (b"id,text,url\n", "csv"),
        (b'"id","text"\n', "csv"),
        (b"id\tpassage\n", "tsv"),
        (b"id,title\n", "text"),
        (b"PAR1\x15\x04", "parquet"),
    ],
)
def test_formats_are_told_by_their_first_line(head: bytes, format: str) -> None:
    assert sniff_format(head) == format


def test_a_named_text_field_makes_a_header_recognisable() -> None:
    assert sniff_format(b"id,title\n", ("title",)) == "csv"


def test_a_format_that_was_guessed_is_told_under_verbose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ce_rerank"):
        texts(b"one\n")
    assert caplog.messages == ["stdin: read as text, going by its first bytes (--from says otherwise)."]


def test_a_whole_file_is_one_document_with_its_path_as_id(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n{two}\n")
    assert read(path, whole_files=True) == [(str(path), "one\r\n\r\n{two}\n", str(path))]
    assert read(Source.from_stream(io.BytesIO(b"all")), whole_files=True) == [("-", "all", "stdin")]


def test_documents_without_text_are_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert texts(b'{"text": "a"}\n{"text": ""}\n{"text": " "}\n') == ["a", "", " "]
    assert caplog.messages == [
        "stdin: 2 of 3 documents have no text, and are scored all the same (the first: stdin:2)."
    ]


def test_rows_come_while_the_pipe_is_still_being_fed() -> None:
    reading, writing = os.pipe()
    proceed = threading.Event()

    def feed() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(b'{"te')
            pipe.write(b'xt": "one"}\n')
            proceed.wait(10)
            pipe.write(b'{"text": "two"}\n')

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb") as pipe:
        documents = read_documents(Source.from_stream(pipe))
        assert next(documents).text == "one"
        assert not proceed.is_set()
        proceed.set()
        assert next(documents).text == "two"
        feeder.join()


def test_a_csv_field_may_be_longer_than_the_csv_module_likes() -> None:
    long = "x" * 200_000
    assert texts(f"id,text\n1,{long}\n".encode()) == [long]


def test_several_compressed_members_are_read_one_after_another() -> None:
    for compress in (gzip.compress, zstandard.compress):
        assert texts(compress(b"one\n") + compress(b"two\n")) == ["one", "two"]


def test_how_much_of_a_file_was_read_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"word\n" * 100_000)
    source = Source.from_path(path)
    rows = read_rows(source)
    next(rows)
    assert source.size_bytes == 500_000
    assert 0 < source.read_bytes < 500_000
    assert Source.from_stream(io.BytesIO(b"")).size_bytes is None


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"ok\nna\xefve\n", {},
         "stdin:2: not UTF-8 (byte 3 of the line is 0xEF). "
         "Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8."),
        (b'["ok",\n"na\xefve"]', {},
         "stdin:2: not UTF-8 (byte 4 of the line is 0xEF). "
         "Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8."),
        ("one".encode("utf-16"), {},
         "stdin: the text is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8."),
        (b"ok\na\0b\n", {}, "stdin:2: a NUL byte, which text does not have. Is it a binary file?"),
        (b"id,text\n1,a\0b\n", {}, "stdin:2: a NUL byte, which text does not have. Is it a binary file?"),
        (b'["a\0b"]', {}, "stdin: NUL bytes, which text does not have. Is it a binary file?"),
        (b'{"text": "a"}\n[1]\n', {}, "stdin:2: the row is a list, not an object or a string."),
        (b'{"text": "a"}\n{"text" "b"}\n', {},
         "stdin:2: broken JSON at column 9 (expecting ':' delimiter)."),
        (b'[{"text": "a"},\n 7]', {}, "stdin:2: the row is a number, not an object or a string."),
        (b'["a",\n"b" "c"]', {}, "stdin:2: broken JSON ('\"' where a comma or ] should be)."),
        (b'["a", "b"', {}, "stdin:1: broken JSON (the end where a comma or ] should be)."),
        (b'["a",]', {}, "stdin:1: broken JSON at column 6 (expecting value)."),
        (b'["a"]\n["b"]', {}, "stdin:2: broken JSON ('[' where nothing after the array should be)."),
        (b'{"hits": [{"text": "a"}]}', {"format": "json"},
         'stdin: an object, not an array of documents. Take the array out of "hits", for example: jq .hits'),
        (b'{"text": "a"}\n{"text": "b"}\n', {"format": "json"},
         "stdin: JSON values one after another, not an array. Give --from jsonl."),
        (b'"a"', {"format": "json"}, "stdin: a string, not an array of documents."),
        (b"id,text\n1,a,b\n", {},
         "stdin:2: the row has 3 fields, the header has 2 (id, text). Quote fields that hold the delimiter."),
        (b"id,text\n1,a\n2\n", {},
         "stdin:3: the row has 1 fields, the header has 2 (id, text). Quote fields that hold the delimiter."),
        (b"id,text,id\n1,a,2\n", {},
         'stdin:1: the header has "id" twice. Rename one of the columns.'),
        (b"id,body_html\n1,a\n", {"format": "csv"},
         'stdin:2: no "text" field (has: id, body_html). Name it with --text-field.'),
        (b'id,text\n1,"a\n2,b\n', {}, "stdin:2: a quoted field starts in this row and never ends."),
        (b'id\ttext\n1\t"a" b\n', {},
         "stdin:2: broken quotes ('\t' expected after '\"'). A field that starts with a quote ends with one; "
         'quotes inside it are doubled: "say ""so""".'),
        (gzip.compress(JSONL, mtime=0)[:-12], {}, "stdin: the gzip data is cut off. Fetch the file again."),
        (zstandard.compress(JSONL)[:-5], {}, "stdin: the zstd data is cut off. Fetch the file again."),
    ],
)  # fmt: skip
def test_broken_input_is_named_with_its_place(data: bytes, options: dict[str, Any], message: str) -> None:
    assert stdin_failure(data, **options) == message


def test_damaged_compression_is_named() -> None:
    squeezed = bytearray(gzip.compress(JSONL))
    squeezed[-6] ^= 0xFF
    assert stdin_failure(bytes(squeezed)).startswith("stdin: the gzip data is damaged (CRC check failed")
    frame = bytearray(zstandard.compress(JSONL * 50))
    frame[6:20] = b"\xff" * 14
    assert stdin_failure(bytes(frame)).startswith("stdin: the zstd data is damaged (")


def test_what_is_no_readable_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "hits.jsonl").write_bytes(JSONL)
    (tmp_path / "plain.txt.gz").write_bytes(b"plain\n")
    assert failure(tmp_path / "hit.jsonl") == (
        f"{tmp_path}/hit.jsonl: no such file. Is it {tmp_path}/hits.jsonl?"
    )
    assert failure(tmp_path / "zzz") == f"{tmp_path}/zzz: no such file."
    assert failure(tmp_path / "no" / "x") == (
        f"{tmp_path}/no/x: no such file. There is no folder {tmp_path}/no either."
    )
    assert failure(tmp_path) == f"{tmp_path}: a directory, not a file. Name the files in it."
    assert failure(tmp_path / "plain.txt.gz") == (
        f"{tmp_path}/plain.txt.gz: not gzip data, whatever its name says. Rename it."
    )


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert failure(path) == f"{path}: no permission to read it."


def test_zstd_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnavailableError) as caught:
        texts(zstandard.compress(b"one"))
    assert str(caught.value) == (
        "stdin: reading zstd needs the zstandard package. Install it: pip install 'ce-rerank[zstd]'"
    )


@pytest.mark.parametrize(
    ("data", "kept", "dropped"),
    [
        (b'{"a": 1}\n{"b"\n[3]\n{"c": 3}\nna\xefve\n{"d": 4}\n', 3, ['{"b"', "[3]", "na\ufffdve"]),
        (b'id,text\n1,a\n2\n3,"x"y\n4,"na\xefve\nfolk"\n5,b\n', 2, ["2", '3,"x"y', '4,"na\ufffdve\nfolk"']),
        (b'["a", 1, {"b": 2}, null]', 2, ["1", "null"]),
        (b"one\nna\xefve\nthree\n", 2, ["na\ufffdve"]),
    ],
)
def test_rows_that_cannot_be_read_can_be_rejected_one_by_one(
    data: bytes, kept: int, dropped: list[str]
) -> None:
    rejected: list[str] = []
    source = Source.from_stream(io.BytesIO(data))
    rows = list(read_rows(source, reject=lambda error, text: rejected.append(text)))
    assert (len(rows), rejected) == (kept, dropped)


def test_a_bad_header_cannot_be_passed_over() -> None:
    source = Source.from_stream(io.BytesIO(b'id,"te"xt\n1,a\n'))
    with pytest.raises(InputError, match="stdin:1: broken quotes"):
        list(read_rows(source, ReadOptions(format="csv"), reject=lambda error, text: None))


@pytest.mark.parametrize(
    ("data", "query"), [(b"why?\n", "why?"), (b"a\nb\r\n", "a\nb"), (b" x \n\n", " x \n")]
)
def test_a_query_file_loses_one_line_end(tmp_path: Path, data: bytes, query: str) -> None:
    path = tmp_path / "query.txt"
    path.write_bytes(data)
    assert read_query(path) == query


def test_a_blank_query_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "query.txt"
    path.write_bytes(b" \n")
    with pytest.raises(InputError) as caught:
        read_query(path)
    assert str(caught.value) == f"{path}: no query in it. Write the query there, as plain text."
