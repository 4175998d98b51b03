from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ce_rerank.cli.console import clean_text
from ce_rerank.cli.excerpt import QueryWords, make_excerpt

STORY = (
    "The yard lent us its crane. On trestles the mast turned out to be sound. She was launched in April, and "
    "by noon the floorboards were afloat. Never caulk dry seams, since they burst when the wood swells. "
    "After that the season was like other seasons, and the seams held. We laid her up in the mud berth "
    "beside the sluice."
)


def marked(text: str, query: str) -> list[str]:
    return [text[start:end] for start, end in QueryWords(query).find(text)]


def shown(text: str, query: str, width: int, max_lines: int, ellipsis: str = "…") -> list[str]:
    lines = make_excerpt(text, QueryWords(query), width=width, max_lines=max_lines, ellipsis=ellipsis)
    return [line.text for line in lines]


# What is printed


def test_white_space_of_every_kind_becomes_single_spaces() -> None:
    assert clean_text(" a\t\tb\r\n\n c\u2028d\u3000e\u00a0f ") == "a b c d e f"


def test_escape_sequences_become_pictures() -> None:
    assert clean_text("\x1b[31mred\x1b[0m \x07 \x7f") == "␛[31mred␛[0m ␇ ␡"


def test_eight_bit_control_characters_become_replacement_characters() -> None:
    assert clean_text("\x9b31mred") == "\ufffd31mred"


def test_direction_overrides_and_hidden_characters_go() -> None:
    assert clean_text("user\u202egnp.exe\u2069 a\u200bb so\u00adft \ufeffx") == "usergnp.exe ab soft x"


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert clean_text("a\ud83db") == "a\ufffdb"


def test_joiners_stay_where_emoji_and_persian_need_them() -> None:
    assert clean_text("👨\u200d👩\u200d👧 می\u200cخواهم") == "👨\u200d👩\u200d👧 می\u200cخواهم"


def test_decomposed_letters_are_composed() -> None:
    assert clean_text("cafe\u0301") == "café"


def test_what_the_encoding_lacks_becomes_question_marks() -> None:
    assert clean_text("茶 é …", "latin-1") == "? é ?"
    assert clean_text("茶 é …", "utf-8") == "茶 é …"


@given(st.text())
def test_nothing_that_is_cleaned_controls_the_terminal(text: str) -> None:
    cleaned = clean_text(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", cleaned)
    assert cleaned.isascii() or clean_text(text, "ascii").isascii()


# The words of the query


def test_words_are_found_in_any_case_and_only_whole() -> None:
    assert marked("Sail! A sailor SAILS, and sails; to sail.", "sail sails") == [
        "Sail",
        "SAILS",
        "sails",
        "sail",
    ]


def test_stopwords_are_passed_over() -> None:
    assert marked("Why do the stars twinkle at the sea?", "Why do the stars twinkle?") == ["stars", "twinkle"]


def test_stopwords_are_found_when_there_are_no_other_words() -> None:
    assert marked("To be, or not to be: that is it.", "to be or not to be") == [
        "To",
        "be",
        "or",
        "not",
        "to",
        "be",
    ]


def test_punctuation_and_patterns_in_a_query_are_not_patterns() -> None:
    assert marked("a.b axb (c) [d] *", "(c) [d .* ?") == ["c", "d"]
    assert marked("anything", "?!") == []
    assert marked("anything", "") == []


def test_words_with_an_apostrophe_are_one_word() -> None:
    assert marked("The rivers' mouth, a river's mouth, a river.", "river's") == ["river's"]


def test_words_of_other_alphabets_are_whole_words_too() -> None:
    assert marked("Über Flüsse und Flüssen", "FLÜSSE über") == ["Über", "Flüsse"]
    assert marked("Подъём и подъёмник", "подъём") == ["Подъём"]
    assert marked("السماء زرقاء", "زرقاء") == ["زرقاء"]


def test_a_combining_mark_belongs_to_its_word() -> None:
    assert marked("e\u0301 e", "e") == ["e"]
    assert marked("नमस्ते", "नमस्") == []
    assert marked("नमस्ते नमस्", "नमस्") == ["नमस्"]


def test_words_are_found_with_the_marks_that_are_part_of_them() -> None:
    assert marked("यह हिन्दी भाषा है, हिन्दीभाषी नहीं", "हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert marked("این را می\u200cخواهم", "می\u200cخواهم") == ["می\u200cخواهم"]


def test_words_are_found_inside_scripts_without_spaces() -> None:
    assert marked("สาเหตุของน้ำขึ้นน้ำลงคือดวงจันทร์", "น้ำขึ้นน้ำลง") == ["น้ำขึ้นน้ำลง"]
    assert marked("ດວງຈັນ", "ຈັນ") == ["ຈັນ"]
    assert marked("ꩡꩢꩣ", "ꩢ") == ["ꩢ"]


def test_no_mark_is_parted_from_a_word_of_a_script_without_spaces() -> None:
    assert marked("การบ้าน การ์ด", "การ") == ["การ"]


def test_either_apostrophe_finds_the_other() -> None:
    assert marked("The sailor’s knot", "sailor's") == ["sailor’s"]
    assert marked("The sailor's knot 'holds'", "sailor’s ‘holds’") == ["sailor's", "holds"]


def test_chinese_is_found_by_pairs_of_characters() -> None:
    assert marked("番茄苗要等晚霜过去，再移栽到室外。", "番茄苗什么时候移栽到室外") == [
        "番茄苗",
        "移栽到室外",
    ]


def test_a_single_chinese_character_is_found_as_such() -> None:
    assert marked("茶和咖啡，红茶", "茶") == ["茶", "茶"]


def test_endings_of_japanese_are_passed_over() -> None:
    assert marked("潮が変わるまで待つとよい", "潮が変わると") == ["潮が変わ"]


def test_words_beside_chinese_are_found() -> None:
    assert marked("用UTF8编码", "UTF8 编码") == ["UTF8", "编码"]


# The part that is shown


def test_a_short_text_is_shown_whole() -> None:
    assert shown("git revert makes a new commit.", "commit", 16, 2) == ["git revert makes", "a new commit."]


def test_an_empty_text_has_no_lines() -> None:
    assert shown("", "commit", 16, 2) == []


def test_a_long_text_is_shown_from_its_start_when_the_query_is_not_in_it() -> None:
    assert shown(STORY, "badminton", 40, 2) == [
        "The yard lent us its crane. On",
        "trestles the mast turned out to be …",
    ]


def test_a_long_text_is_shown_from_the_sentence_that_has_most_of_the_query() -> None:
    assert shown(STORY, "should dry seams be caulked", 44, 2) == [
        "… Never caulk dry seams, since they burst",
        "when the wood swells. After that the …",
    ]


def test_the_end_of_a_long_text_fills_the_lines() -> None:
    assert shown(STORY, "sluice", 44, 2) == [
        "… held. We laid her up in the mud berth",
        "beside the sluice.",
    ]


def test_the_ellipsis_may_be_three_dots() -> None:
    assert shown(STORY, "badminton", 32, 1, "...") == ["The yard lent us its crane. ..."]
    assert shown(STORY, "noon", 32, 1, "...") == ["... by noon the floorboards ..."]


def test_marks_point_into_the_shown_lines() -> None:
    lines = make_excerpt(STORY, QueryWords("caulk dry seams wood"), width=44, max_lines=2)
    assert [[line.text[start:end] for start, end in line.marks] for line in lines] == [
        ["caulk", "dry", "seams"],
        ["wood"],
    ]


def test_chinese_breaks_anywhere_but_before_closing_marks() -> None:
    assert shown("番茄苗要等晚霜过去、夜间气温稳定。", "x", 18, 9) == [
        "番茄苗要等晚霜过",
        "去、夜间气温稳定。",
    ]


def test_a_word_wider_than_a_line_is_cut() -> None:
    assert shown("see aaaaaaaaaaaaaaaaaaaaaaaa", "x", 10, 9) == ["see", "aaaaaaaaaa", "aaaaaaaaaa", "aaaa"]


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Mn", "Me"]) | st.sampled_from(" 茶番。a, ")),
    st.text(st.sampled_from("abc 茶番")),
    st.integers(10, 50),
    st.integers(1, 4),
)
def test_every_excerpt_fits_and_is_part_of_the_text(
    text: str, query: str, width: int, max_lines: int
) -> None:
    text = clean_text(text)
    lines = make_excerpt(text, QueryWords(query), width=width, max_lines=max_lines)
    assert len(lines) <= max_lines
    assert all(cell_len(line.text) <= width for line in lines)
    assert all(0 <= start < end <= len(line.text) for line in lines for start, end in line.marks)
    place = 0
    for line in lines:
        part = line.text.removeprefix("… ").removesuffix(" …")
        place = text.index(part, place) + len(part)


@given(
    st.lists(st.sampled_from(["a", "boat", "茶", "番茄", "windward", "it.", "Zigzagging"]), max_size=200),
    st.lists(st.sampled_from(["a", "boat", "茶", "番茄", "windward", "it.", "Zigzagging"]), max_size=200),
    st.integers(30, 60),
    st.integers(2, 5),
)
def test_a_word_of_the_query_is_among_what_is_shown(
    before: list[str], after: list[str], width: int, max_lines: int
) -> None:
    lines = make_excerpt(
        " ".join([*before, "bowline", *after]), QueryWords("bowline"), width=width, max_lines=max_lines
    )
    assert [line.text[start:end] for line in lines for start, end in line.marks] == ["bowline"]
