from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ce_rerank.cli.console import stdout_console
from ce_rerank.cli.ranking_table import cut_passages, draw_ranking, find_excerpt, find_words
from ce_rerank.types import Document, Passage, Query, RankedDocument, Ranking

STORY = (
    "The yard lent us its crane. On trestles the mast turned out to be sound. She was launched in April, and "
    "by noon the floorboards were afloat. Never caulk dry seams, since they burst when the wood swells. "
    "After that the season was like other seasons, and the seams held. We laid her up in the mud berth "
    "beside the sluice. The winter was long, and nobody came to look at her before the first of March."
)


def marked(text: str, query: str) -> list[str]:
    return [match[0] for match in find_words(query).finditer(text)]


def excerpt(text: str, query: str) -> str:
    return text[find_excerpt(text, find_words(query)) :]


# The words of the query


def test_words_are_found_in_any_case_and_only_whole() -> None:
    text = "Sail! A sailor SAILS, and sails; to sail."
    assert marked(text, "sail sails") == ["Sail", "SAILS", "sails", "sail"]


def test_short_words_are_passed_over_unless_there_are_no_others() -> None:
    assert marked("Why do the stars twinkle at the sea?", "do the stars twinkle?") == ["stars", "twinkle"]
    assert marked("To be, or not to be.", "to be or not to be") == ["To", "be", "or", "not", "to", "be"]
    assert marked("the AI and the sea", "is AI there") == ["AI"]


def test_punctuation_and_patterns_in_a_query_are_not_patterns() -> None:
    assert marked("a.b axb (c) [d] *", "(c) [d .* ?") == ["c", "d"]
    assert marked("anything", "?!") == marked("anything", "") == []


def test_words_of_other_alphabets_are_whole_words_too() -> None:
    assert marked("Über Flüsse und Flüssen", "FLÜSSE über") == ["Über", "Flüsse"]
    assert marked("Подъём и подъёмник", "подъём") == ["Подъём"]
    assert marked("السماء زرقاء", "زرقاء") == ["زرقاء"]
    assert marked("यह हिन्दी भाषा है, हिन्दीभाषी नहीं", "हिन्दी भाषा") == ["हिन्दी", "भाषा"]


def test_chinese_and_its_like_are_found_by_pairs_of_characters() -> None:
    assert "".join(marked("番茄苗要等晚霜过去，再移栽到室外。", "番茄苗移栽到室外")) == "番茄苗移栽到室外"
    assert marked("用UTF8编码", "UTF8 编码") == ["编", "码"]
    assert marked("码头", "编码") == []


# The part that is shown


def test_a_short_text_is_shown_from_its_start() -> None:
    assert excerpt("One. git revert makes a commit.", "commit") == "One. git revert makes a commit."
    assert excerpt("", "commit") == ""


def test_a_long_text_is_shown_from_the_sentence_that_has_most_of_the_query() -> None:
    text = "Nobody knew. " * 50 + STORY
    assert excerpt(text, "should dry seams be caulked").startswith("Never caulk dry seams, since")


def test_the_end_of_a_long_text_fills_the_excerpt() -> None:
    assert 150 < len(excerpt(STORY, "March")) < 300


@pytest.mark.parametrize(("before", "line"), [("", 1), ("a\n\n", 3), ("word\n" * 400, 401)])
def test_of_a_passage_the_part_with_the_query_is_given_with_its_line(before: str, line: int) -> None:
    text = f"{before}Never caulk dry seams.\n" + "more\n" * 400
    head = "head\n\n"
    hit = RankedDocument(
        Document(head + text, "log.md", origin="log.md"),
        0,
        1,
        2.0,
        passage=Passage(text, len(head), len(head + text), 3),
    )
    ranking = Ranking(Query("caulk seams"), (hit,))
    passage = cut_passages(ranking)[0].passage
    assert passage is not None
    assert "Never caulk dry seams." in passage.text
    assert len(passage.text) <= 300
    assert hit.text[passage.start : passage.end] == passage.text
    shown = head.count("\n") + line - passage.text[: passage.text.index("Never")].lstrip().count("\n")
    assert passage.line == shown
    drawn = io.StringIO()
    draw_ranking(ranking, stdout_console(drawn))
    assert f"log.md:{passage.line} " in drawn.getvalue()


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Mn", "Me"]) | st.sampled_from(" 茶番。a, ")),
    st.text(st.sampled_from("abc 茶番")),
    st.integers(40, 120),
)
def test_every_line_of_an_excerpt_fits(text: str, query: str, width: int) -> None:
    console = stdout_console(io.StringIO())
    console.width = width
    draw_ranking(Ranking(Query(query), (RankedDocument(Document(text * 9), 0, 1, 1.0),)), console)
    assert all(cell_len(line) <= width for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


WORDS = ["a", "boat", "茶", "番茄", "windward", "it.", "Zigzagging"]


@given(st.lists(st.sampled_from(WORDS), max_size=200), st.lists(st.sampled_from(WORDS), max_size=200))
def test_a_word_of_the_query_is_among_what_is_shown(before: list[str], after: list[str]) -> None:
    text = " ".join([*before, "bowline", *after])
    assert "bowline" in excerpt(text, "bowline")[:200]
