from __future__ import annotations

import math
from typing import Any

import pytest

from ce_rerank.errors import InputError
from ce_rerank.formats.fields import FieldRules, find_number, without_texts
from ce_rerank.types import Document

NAMES = ("text", "passage", "content", "body", "document", "contents", "page_content")


@pytest.mark.parametrize(
    ("row", "text", "used"),
    [
        *(({"url": "u", "passage_text": "no", name: "yes"}, "yes", (name,)) for name in NAMES),
        ({"url": "u", "passage_text": "yes"}, "yes", ("passage_text",)),
        ({"body": "b", "passage": "a", "title": "T"}, "T a", ("title", "passage")),
        ({"title": None, "text": "b"}, "b", ("title", "text")),
        ({"title": 5, "text": "b"}, "5 b", ("title", "text")),
        ({"title": ["a", 1.5], "text": "b"}, "a 1.5 b", ("title", "text")),
        ({"text": None, "body": "x"}, "", ("text",)),
    ],
)
def test_the_usual_text_is_made_of_strings_numbers_and_lists(
    row: Any, text: str, used: tuple[str, ...]
) -> None:
    document = FieldRules().document(row, "f:1")
    assert (document.text, document.text_fields) == (text, used)


@pytest.mark.parametrize(
    ("row", "paths", "text"),
    [
        ({"a": "1", "b": "2", "title": "T"}, ("b", "a"), "2 1"),
        ({"a": "1", "b": None}, ("b", "a", "c"), "1"),
        ({"b": None}, ("b", "a"), ""),
        ({"a": {"b": {"c": "deep"}}}, ("a.b.c",), "deep"),
        ({"a": {"b": "path"}, "a.b": "key"}, ("a.b",), "key"),
        ({"c": [{"type": "text", "text": "a"}, {"type": "image"}, "x", {"text": "b"}]}, ("c.text",), "a b"),
    ],
)
def test_named_fields_are_joined_with_one_space_in_their_order(
    row: Any, paths: tuple[str, ...], text: str
) -> None:
    assert FieldRules(paths).document(row, "f:1").text == text


@pytest.mark.parametrize(
    ("row", "path", "left"),
    [
        ({"id": 1, "m": {"body": "t", "by": "Ann"}, "z": 2}, "m.body", {"id": 1, "m": {"by": "Ann"}, "z": 2}),
        ({"m": {"n": {"body": "t"}}, "z": 2}, "m.n.body", {"z": 2}),
        ({"m.body": "t", "m": {"body": "u"}}, "m.body", {"m": {"body": "u"}}),
        (
            {"c": [{"text": "a"}, {"text": "b", "n": 1}, {}], "d": []},
            "c.text",
            {"c": [{"n": 1}, {}], "d": []},
        ),
    ],
)
def test_what_stands_beside_a_text_stays_when_the_text_goes(
    row: dict[str, Any], path: str, left: dict[str, Any]
) -> None:
    document = FieldRules((path,)).document(row, "f:1")
    assert without_texts(document) == left
    assert document.fields == row


@pytest.mark.parametrize(
    ("row", "id"),
    [
        *(({name: "x"}, "x") for name in ("id", "_id", "docno", "docid", "doc_id", "pid", "corpus-id")),
        ({"docid": 17, "docno": "FT911-3"}, "FT911-3"),
        ({"pid": "p", "ID": "i"}, "i"),
        ({"id": None, "pid": 0}, 0),
        ({"id": 1.0}, 1),
        ({"id": 1.5}, "1.5"),
        ({"id": "1.0"}, "1.0"),
        ({"id": math.inf, "pid": 1}, 1),
        ({"id": True}, None),
        ({"_id": {"$oid": "507f"}}, None),
        ({"id": ["langchain", "Document"], "pid": "p"}, "p"),
        ({"key": 1}, None),
    ],
)
def test_the_usual_ids_are_found_in_their_order_and_in_any_case(row: dict[str, Any], id: Any) -> None:
    found = FieldRules().document({"text": "t", **row}, "f:1").id
    assert (found, type(found)) == (id, type(id))


def test_a_named_id_may_be_nested_or_null() -> None:
    row = {"text": "t", "_id": {"$oid": "5"}, "id": None}
    assert FieldRules(id_field="_id.$oid").document(row, "f:1").id == "5"
    assert FieldRules(id_field="id").document(row, "f:1").id is None


NAME_IT = "Name it with --text-field."


@pytest.mark.parametrize(
    ("row", "rules", "message"),
    [
        ({"id": 1, "body_html": "x"}, FieldRules(), f'no "text" field (has: id, body_html). {NAME_IT}'),
        ({"_source": {"text": "a"}, "tags": [], "my notes": {"by": "Ann"}}, FieldRules(), f'no "text" field (has: _source.text, tags, "my notes.by"). {NAME_IT}'),
        ({f"f{n}": n for n in range(20)}, FieldRules(), f'no "text" field (has: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11 and 8 more). {NAME_IT}'),
        ({"query": "why", "documents": [{"text": "a"}]}, FieldRules(), 'no "text" field (has: query, documents.text). Queries with their documents are for: ce-rerank batch'),
        ({"a": {"c": 1}}, FieldRules(("a.b",)), f'no "a.b" field (has: a.c). {NAME_IT}'),
        ({"id": 1, "text": {"en": "x"}}, FieldRules(), '"text" is an object, not text (has: text.en).'),
        ({"text": True}, FieldRules(), '"text" is true, not text.'),
        ({"text": math.inf}, FieldRules(), '"text" is inf, not text.'),
        ({"text": "t"}, FieldRules(id_field="key"), 'no "key" field (has: text). Name it with --id-field.'),
        ({"text": "t", "_id": {"$oid": "5"}}, FieldRules(id_field="_id"), 'the id "_id" is an object, not a string or a number (has: text, _id.$oid).'),
        (7, FieldRules(), "the row is a number, not an object or a string."),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_document_is_told_with_the_way_out(
    row: Any, rules: FieldRules, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        rules.document(row, "f:17")
    assert caught.value.for_shell.startswith(f"f:17: {message}")


HIT = {"_id": "a", "_source": {"title": "T", "text": "Snow is cold."}}


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        # Elasticsearch, Solr, Qdrant, Weaviate, and Milvus: lists of objects in a list.
        ({"hits": {"total": {"value": 1}, "hits": [HIT]}, "aggs": {"by": {"buckets": [{"key": 1}]}}}, ".hits.hits[]"),
        ({"response": {"docs": [{"id": "a", "b_txt": ["Rain is water."]}]}, "facets": [{"count": 1}]}, ".response.docs[]"),
        ({"result": {"points": [{"id": 7, "payload": {"document": "Rain."}}]}, "status": "ok"}, ".result.points[]"),
        ({"data": {"Get": {"Article": [{"body": "Rain."}]}}}, ".data.Get.Article[]"),
        ({"my data": [{"text": "Rain."}]}, '.["my data"][]'),
        ([{"id": 451, "entity": {"text": "Snow."}}], "flatten[]"),
    ],
)  # fmt: skip
def test_a_whole_answer_of_a_search_engine_gets_the_line_that_takes_its_rows_out(
    answer: Any, path: str
) -> None:
    with pytest.raises(InputError) as caught:
        FieldRules().document(answer, "f:1")
    assert f"jq -c '{path}'" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        # pandas: orient="columns", "split"; Chroma.
        {"id": {"0": 1}, "text": {"0": "a"}},
        {"columns": ["id", "text"], "index": [0], "data": [[1, "a"]]},
        {"ids": [["a"]], "documents": [["Snow."]]},
    ],
)
def test_columns_of_values_are_refused_without_a_line_that_takes_out_no_objects(answer: Any) -> None:
    with pytest.raises(InputError) as caught:
        FieldRules().document(answer, "f:1")
    assert caught.value.hint.startswith("Write the rows as an object each")


@pytest.mark.parametrize(("name", "number"), [("n", 1.5), ("-n", -1.5), ("s", 2.0)])
def test_a_first_score_is_a_number_with_its_sign_changed_after_a_minus(name: str, number: float) -> None:
    assert find_number(Document("t", fields={"n": 1.5, "s": "2"}), name, 0) == number


@pytest.mark.parametrize("value", [None, "x", math.nan, math.inf, [1], 10**400])
def test_a_first_score_that_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r'^document 3: no number in the field "n"'):
        find_number(Document("t", fields={"n": value}), "n", 3)
