from __future__ import annotations

from typing import Any

import pytest

from ce_rerank.errors import InputError
from ce_rerank.formats.fields import FieldRules, without_texts


def text_of(row: Any, *text_fields: str) -> str:
    return FieldRules(text_fields).document(row, "f:1").text


@pytest.mark.parametrize("name", ["text", "passage", "content", "body", "document", "contents"])
def test_the_usual_text_fields_are_found(name: str) -> None:
    assert text_of({"url": "u", name: "words"}) == "words"


def test_text_goes_before_the_other_usual_fields() -> None:
    assert text_of({"contents": "3", "body": "2", "text": "1"}) == "1"


def test_a_title_goes_before_the_text() -> None:
    document = FieldRules().document({"body": "b", "title": "T"}, "f:1")
    assert (document.text, document.text_fields) == ("T b", ("title", "body"))


@pytest.mark.parametrize("title", [None, ""])
def test_an_empty_title_adds_nothing(title: str | None) -> None:
    assert text_of({"title": title, "text": "b"}) == "b"


def test_named_fields_are_joined_with_one_space_in_their_order() -> None:
    document = FieldRules(("b", "a")).document({"a": "1", "b": "2", "title": "T"}, "f:1")
    assert (document.text, document.text_fields) == ("2 1", ("b", "a"))


def test_a_dotted_path_goes_into_nested_objects() -> None:
    document = FieldRules(("a.b.c",)).document({"a": {"b": {"c": "deep"}}}, "f:1")
    assert (document.text, document.text_fields) == ("deep", ("a.b.c",))


@pytest.mark.parametrize(
    ("row", "path", "left"),
    [
        ({"id": 1, "m": {"body": "t", "by": "Ann"}, "z": 2}, "m.body", {"id": 1, "m": {"by": "Ann"}, "z": 2}),
        ({"m": {"n": {"body": "t"}}, "z": 2}, "m.n.body", {"z": 2}),
        ({"m.body": "t", "m": {"body": "u"}}, "m.body", {"m": {"body": "u"}}),
    ],
)
def test_what_stands_beside_a_text_stays_when_the_text_goes(
    row: dict[str, Any], path: str, left: dict[str, Any]
) -> None:
    document = FieldRules((path,)).document(row, "f:1")
    assert without_texts(document) == left
    assert document.fields == row


def test_a_key_with_dots_in_it_goes_before_the_path() -> None:
    document = FieldRules(("a.b",)).document({"a": {"b": "path"}, "a.b": "key"}, "f:1")
    assert (document.text, document.text_fields) == ("key", ("a.b",))


def test_a_bare_string_is_a_document() -> None:
    document = FieldRules().document("words", "f:1")
    assert (document.text, document.id, dict(document.fields), document.origin) == ("words", None, {}, "f:1")


@pytest.mark.parametrize("name", ["id", "_id", "docid", "doc_id", "pid"])
def test_the_usual_ids_are_found(name: str) -> None:
    assert FieldRules().document({"text": "t", name: "x"}, "f:1").id == "x"


def test_a_null_id_is_none_and_the_next_usual_name_is_looked_at() -> None:
    assert FieldRules().document({"text": "t", "id": None, "pid": 0}, "f:1").id == 0
    assert FieldRules(id_field="id").document({"text": "t", "id": None, "pid": 0}, "f:1").id is None


def test_an_id_may_be_nested() -> None:
    assert FieldRules(id_field="meta.key").document({"text": "t", "meta": {"key": 7}}, "f:1").id == 7


def test_the_row_is_kept_as_it_was_read() -> None:
    row = {"z": 1, "text": "t", "a": [1, {"b": None}]}
    assert list(FieldRules().document(row, "f:1").fields.items()) == list(row.items())


@pytest.mark.parametrize(
    ("row", "rules", "message"),
    [
        (
            {"id": 1, "body_html": "x"},
            FieldRules(),
            'hits.jsonl:17: no "text" field (has: id, body_html). Name it with --text-field.',
        ),
        ({}, FieldRules(), 'hits.jsonl:17: no "text" field (it has none at all). Name it with --text-field.'),
        (
            {f"f{n}": n for n in range(20)},
            FieldRules(),
            'hits.jsonl:17: no "text" field (has: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11 '
            "and 8 more). Name it with --text-field.",
        ),
        (
            {"query": "why", "documents": ["a"]},
            FieldRules(),
            'hits.jsonl:17: no "text" field (has: query, documents). Name it with --text-field. '
            "Queries with their documents are for: ce-rerank batch",
        ),
        (
            {"text": None, "body": "x"},
            FieldRules(),
            'hits.jsonl:17: the field "text" is null, not a string. '
            "Name the field that holds the text with --text-field.",
        ),
        (
            {"a": {"b": ["x"]}},
            FieldRules(("a.b",)),
            'hits.jsonl:17: the field "a.b" is a list, not a string. '
            "Name the field that holds the text with --text-field.",
        ),
        (
            {"text": "t", "title": 1984},
            FieldRules(),
            'hits.jsonl:17: the field "title" is a number, not a string. '
            "Name the field that holds the text with --text-field.",
        ),
        (
            {"a": {"c": 1}},
            FieldRules(("a.b",)),
            'hits.jsonl:17: no "a.b" field (has: a). Name it with --text-field.',
        ),
        (
            {"text": "t"},
            FieldRules(id_field="key"),
            'hits.jsonl:17: no "key" field (has: text). Name it with --id-field.',
        ),
        (
            {"text": "t", "id": 1.5},
            FieldRules(),
            'hits.jsonl:17: the id "id" is a number, not a string or an integer. '
            "Name another field with --id-field.",
        ),
        (
            {"text": "t", "id": True},
            FieldRules(),
            'hits.jsonl:17: the id "id" is true, not a string or an integer. '
            "Name another field with --id-field.",
        ),
        (["t"], FieldRules(), "hits.jsonl:17: the row is a list, not an object or a string."),
    ],
)
def test_a_row_that_makes_no_document_is_told_with_the_way_out(
    row: Any, rules: FieldRules, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        rules.document(row, "hits.jsonl:17")
    assert str(caught.value) == message
