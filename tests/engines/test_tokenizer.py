from __future__ import annotations

from fakes import word_tokenizer

from ce_rerank.engines.tokenizer import INSTRUCTION, Layout, PairTokenizer


def encoder(max_length: int = 12, with_type_ids: bool = True) -> PairTokenizer:
    return PairTokenizer(word_tokenizer(), max_length=max_length, with_type_ids=with_type_ids)


def test_a_pair_is_the_query_a_separator_and_the_document() -> None:
    (row,) = encoder().encode([("one", "two three")])
    assert list(row.input_ids) == [2, 5, 3, 6, 7, 3]
    assert list(row.token_type_ids) == [0, 0, 0, 1, 1, 1]
    assert (row.truncated, row.characters_read) == (False, len("two three"))


def test_the_document_is_cut_and_the_query_is_not() -> None:
    (row,) = encoder(max_length=8).encode([("one two three", "four five six seven")])
    assert list(row.input_ids) == [2, 5, 6, 7, 3, 8, 9, 3]
    assert (row.truncated, row.characters_read) == (True, len("four five"))


def test_document_room_is_what_the_query_and_the_special_tokens_leave() -> None:
    assert encoder(max_length=12).document_room("one two") == 7
    assert encoder(max_length=12).document_room("one " * 20) == -11


def test_token_spans_are_ranges_of_characters() -> None:
    assert list(encoder().token_spans("one  déjà two")) == [(0, 3), (5, 9), (10, 13)]


def one_text() -> PairTokenizer:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(list("01234"))
    layout = Layout(before="red ", between=" green ", after=" blue", trims=True)
    return PairTokenizer(tokenizer, max_length=9, with_type_ids=False, layout=layout)


def test_a_template_makes_one_text_of_a_pair() -> None:
    tokenizer = one_text()
    red, green, blue = (tokenizer.encode([("", word)])[0].input_ids[2] for word in ("red", "green", "blue"))
    whole, cut = tokenizer.encode([(" one ", "two three"), ("one", "  two three four five six seven")])
    assert list(whole.input_ids) == [red, 5, green, 6, 7, blue]
    assert (whole.truncated, whole.characters_read) == (False, len("two three"))
    assert list(cut.input_ids) == [red, 5, green, 6, 7, 8, 9, 10, blue]
    assert (cut.truncated, cut.characters_read) == (True, len("  two three four five six"))
    assert tokenizer.document_room("one two") == 4


def test_no_more_of_a_document_in_a_template_is_tokenized_than_could_matter() -> None:
    tokenizer = one_text()
    short, long = tokenizer.encode([("one", "two " * 30), ("one", "two " * 1_000_000)])
    assert list(short.input_ids) == list(long.input_ids)
    assert short.characters_read == long.characters_read == len("two two two two two")


def test_an_instruction_is_put_in_its_place() -> None:
    layout = Layout(f"task: {INSTRUCTION} query: ", " document: ", f" ({INSTRUCTION})")
    assert layout.with_instruction("cook").fill("q", "d") == "task: cook query: q document: d (cook)"


def test_a_document_of_unknown_tokens_alone_is_told_apart() -> None:
    rows = encoder().encode([("one", "xyzzy plugh"), ("one", "xyzzy two"), ("xyzzy", ""), ("xyzzy", "two")])
    assert [row.unknown for row in rows] == [True, False, False, False]
