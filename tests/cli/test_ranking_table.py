from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ce_rerank.cli.console import make_console
from ce_rerank.cli.ranking_table import cut_to_excerpts, draw_ranking, find_excerpt, find_words
from ce_rerank.types import Coverage, Document, Passage, Query, RankedDocument, Ranking

STARS = "Stars twinkle because their light crosses layers of moving air, warm ones and cold ones."
PLANETS = "Planets seldom twinkle: they are small discs rather than points."
TEA = "茶树喜欢温暖湿润的气候，多长在山坡上。"
STORY = (
    "The yard lent us its crane. On trestles the mast turned out to be sound. She was launched in April, and "
    "by noon the floorboards were afloat. Never caulk dry seams, since they burst when the wood swells. "
    "After that the season was like other seasons, and the seams held. We laid her up in the mud berth "
    "beside the sluice. The winter was long, and nobody came to look at her before the first of March."
)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def rank(
    query: str, hits: Sequence[tuple[float, str, str | int | None]], scored: int | None = None
) -> Ranking:
    results = tuple(
        RankedDocument(Document(text, id), index, index + 1, score)
        for index, (score, text, id) in enumerate(hits)
    )
    return Ranking(Query(query), results, Coverage(documents=len(hits) if scored is None else scored))


def draw(ranking: Ranking, *, details: bool = False, with_text: bool = True) -> str:
    file = io.StringIO()
    draw_ranking(ranking, make_console(file), details=details, with_text=with_text)
    return file.getvalue()


def test_a_ranking_shows_rank_score_bar_id_and_wrapped_text() -> None:
    ranking = rank("why do stars twinkle", [(9.505, STARS, "sky-1"), (-1.723, PLANETS, "sky-2")], scored=36)
    assert draw(ranking) == (
        "    score              id     text\n"
        "1   9.505  ━━━━━━━━━━  sky-1  Stars twinkle because their light crosses layers\n"
        "                              of moving air, warm ones and cold ones.\n"
        "2  -1.723  ╸           sky-2  Planets seldom twinkle: they are small discs\n"
        "                              rather than points.\n"
        "2 of 36 documents\n"
    )


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    hits = [
        (9.5, STARS * 9, "sky-1"),
        (0.25, TEA * 9, "茶-2"),
        (-3.0, "👩🏽‍🚀🚀 " * 99, "🚀"),
        (-4.0, "a" * 999, "x"),
    ]
    drawn = draw(rank("twinkle 湿润 🚀", hits), details=True)
    assert max(map(cell_len, drawn.splitlines())) in range(columns - 20, columns + 1)
    assert not re.search(r" $", drawn, re.MULTILINE)


def test_where_there_is_no_room_beside_it_text_goes_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert draw(rank("x", [(0.5, PLANETS, "sky-2"), (0.25, "Short.", "a/rather/long/path.md")])) == (
        "   score              id\n"
        "1  0.500  ━━━━━━━━━━  sky-2\n"
        "   Planets seldom twinkle: they are\n"
        "   small discs rather than points.\n"
        "2  0.250  ╸           a/rather/long/path.md\n"
        "   Short.\n"
    )


@pytest.mark.parametrize(
    ("scores", "written", "bars"),
    [
        ([0.99, 0.5, 0.01], ["0.990", "0.500", "0.010"], ["━" * 10, "━" * 5 + "╸", "╸"]),
        ([-1.0, -2.0, -11.0], ["-1.000", "-2.000", "-11.000"], ["━" * 10, "━" * 9, "╸"]),
        ([1.00004, 1.00003], ["1.00004", "1.00003"], ["━" * 10, "╸"]),
        ([1.00000001, 1.0], ["1.000000", "1.000000"], ["━" * 10, "╸"]),
    ],
)
def test_bars_show_the_spread_and_scores_as_many_digits_as_tell_them_apart(
    scores: list[float], written: list[str], bars: list[str]
) -> None:
    drawn = draw(rank("x", [(score, "text", None) for score in scores])).splitlines()[1:]
    fields = [line.split() for line in drawn if line.strip() != "text"]
    assert [field[1] for field in fields] == written
    assert [field[2] for field in fields] == bars


def test_of_a_chunked_document_the_passage_and_its_line_are_shown() -> None:
    document = Document(STARS + "\n\n" + PLANETS, "sky.md", origin="sky.md")
    passage = Passage(PLANETS, len(STARS) + 2, len(document.text), line=3)
    hit = RankedDocument(document, 0, 1, 2.0, passage=passage)
    nameless = RankedDocument(Document(document.text), 1, 2, 2.0, passage=passage)
    row = replace(hit, document=replace(document, origin="sky.jsonl:1"))
    assert "  sky.md  " in draw(Ranking(Query("x"), (row,)))
    assert draw(Ranking(Query("x"), (hit, nameless))) == (
        "   score              id        text\n"
        "1  2.000  ━━━━━━━━━━  sky.md:3  Planets seldom twinkle: they are small discs\n"
        "                                rather than points.\n"
        "2  2.000  ━━━━━━━━━━  line 3    Planets seldom twinkle: they are small discs\n"
        "                                rather than points.\n"
    )


def test_what_is_not_shown_is_counted() -> None:
    assert draw(rank("x", [], scored=1200)) == "0 of 1,200 documents\n"
    assert draw(Ranking(Query("x"), (), Coverage(left_out=36))) == "0 of 0 chosen by BM25 from 36\n"


def test_details_show_tokens_and_what_was_cut() -> None:
    read = RankedDocument(Document("short", "a"), 0, 1, 2.0, tokens=9)
    cut = RankedDocument(Document("long text", "b"), 1, 2, 1.0, tokens=512, truncated=True, characters_read=4)
    assert draw(Ranking(Query("x"), (read, cut)), details=True) == (
        "   score              tokens       id  text\n"
        "1  2.000  ━━━━━━━━━━       9       a   short\n"
        "2  1.000  ╸              512  cut  b   long\n"
    )


def test_without_text_there_are_ids_or_places_in_the_input() -> None:
    assert draw(rank("x", [(2.0, STARS, 7), (1.0, TEA, 8)]), with_text=False) == (
        "   score              id\n1  2.000  ━━━━━━━━━━  7\n2  1.000  ╸           8\n"
    )
    assert draw(rank("x", [(2.0, STARS, None), (1.0, TEA, None)]), with_text=False) == (
        "   score              index\n1  2.000  ━━━━━━━━━━  0\n2  1.000  ╸           1\n"
    )


def test_a_document_cannot_inject_escapes_or_markup() -> None:
    drawn = draw(
        rank("x", [(2.0, "a\x1b]0;owned\x07[bold]b[/bold]\x9b2J :tea:\u202ec\ud800", "i\x1b[2Jd\n2")])
    )
    assert drawn == (
        "   score              id        text\n"
        "1  2.000  ━━━━━━━━━━  i\ufffd[2Jd 2  a\ufffd]0;owned\ufffd[bold]b[/bold]\ufffd2J :tea:c\ufffd\n"
    )


def test_the_words_of_the_query_are_picked_out_without_colour_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    drawn = draw(rank("Why do STARS twinkle?", [(2.0, "Stars do twinkle.", None)]))
    assert "\x1b[1;35mStars\x1b[0m do \x1b[1;35mtwinkle\x1b[0m." in drawn
    monkeypatch.setenv("NO_COLOR", "1")
    drawn = draw(rank("Why do STARS twinkle?", [(2.0, "Stars do twinkle.", "a")]))
    assert "\x1b[1;4mStars\x1b[0m do \x1b[1;4mtwinkle\x1b[0m." in drawn
    assert set(re.findall(r"\x1b\[([\d;]*)m", drawn)) == {"2", "1;4", "0"}  # dim, bold underlined, neither


def excerpt(text: str, query: str) -> str:
    return find_excerpt(RankedDocument(Document(text), 0, 1, 2.0), find_words(query)).text


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("Sail! A sailor SAILS, and sails; to sail.", "sail sails", "Sail SAILS sails sail"),
        ("Why do the stars twinkle at the sea?", "do the stars twinkle?", "stars twinkle"),
        ("To be, or not to be.", "to be or not to be", "To be or not to be"),
        ("the AI and the sea", "is AI there", "AI"),
        ("a.b axb (c) [d] *", "(c) [d .* ?", "c d"),
        ("anything", "?!", ""),
        ("Über Flüsse und Flüssen", "FLÜSSE über", "Über Flüsse"),
        ("यह हिन्दी भाषा है, हिन्दीभाषी नहीं", "हिन्दी भाषा", "हिन्दी भाषा"),
        ("用UTF8编码", "UTF8 编码", "编 码"),
        ("码头", "编码", ""),
    ],
)
def test_whole_words_of_the_query_are_marked_and_short_ones_only_without_others(
    text: str, query: str, words: str
) -> None:
    assert [match[0] for match in find_words(query).finditer(text)] == words.split()


def test_a_long_text_is_shown_from_the_sentence_that_has_most_of_the_query() -> None:
    text = "Nobody knew. " * 50 + STORY
    assert excerpt(text, "should dry seams be caulked").startswith("Never caulk dry seams, since")


def test_the_end_of_a_long_text_fills_the_excerpt() -> None:
    assert 150 < len(excerpt(STORY, "March")) < 300


@pytest.mark.parametrize(("before", "line"), [("", 1), ("a\n\n", 3), ("word\n" * 400, 401)])
def test_of_a_passage_the_part_with_the_query_is_given_with_its_line(before: str, line: int) -> None:
    text = f"{before}Never caulk dry seams.\n" + "more\n" * 400
    head = "head\n\n"
    document = Document(head + text, "log.md", origin="log.md")
    whole = Passage(text, len(head), len(head + text), 3)
    ranking = Ranking(Query("caulk seams"), (RankedDocument(document, 0, 1, 2.0, passage=whole),))
    passage = cut_to_excerpts(ranking)[0].passage
    assert passage is not None
    assert "Never caulk dry seams." in passage.text
    assert len(passage.text) <= 300
    assert document.text[passage.start : passage.end] == passage.text
    shown = head.count("\n") + line - passage.text[: passage.text.index("Never")].lstrip().count("\n")
    assert passage.line == shown
    assert f"log.md:{passage.line} " in draw(ranking)


WORDS = ["a", "boat", "茶", "番茄", "windward", "it.", "Zigzagging"]


@given(st.lists(st.sampled_from(WORDS), max_size=200), st.lists(st.sampled_from(WORDS), max_size=200))
def test_a_word_of_the_query_is_among_what_is_shown(before: list[str], after: list[str]) -> None:
    text = " ".join([*before, "bowline", *after])
    assert "bowline" in excerpt(text, "bowline")
