"""Where running text may be broken: between paragraphs, sentences, clauses, words, characters. Pure.

Rules of thumb for every script and no dictionary: they choose where a passage starts and ends, where a miss
costs a little elegance and nothing else. Only `splits_character` is strict: no cut that it allows goes
through what Unicode calls a grapheme cluster.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CLOSERS = r"""["'”’»›)\]}」』】）》〉＂＇]*"""
_NEW_LINE = r"(?:\r\n|[\n\r\v\f\x85\u2028\u2029])"
_PARAGRAPH_END = re.compile(rf"{_NEW_LINE}[^\S\n\r\v\f\x85\u2028\u2029]*{_NEW_LINE}\s*|\u2029\s*")
# Marks of scripts that put no space after a sentence, then of those that do.
_SENTENCE_END = re.compile(rf"[。！？｡।॥။។]+{_CLOSERS}\s*|[.!?…؟۔։።]+{_CLOSERS}\s+|{_NEW_LINE}\s*")
_LINE_END = re.compile(rf"{_NEW_LINE}\s*")
_CLAUSE_END = re.compile(rf"[，、；：—…]+{_CLOSERS}\s*|[,;:،؛၊]+{_CLOSERS}\s+")
_SPACE = re.compile(r"[\s\u200b]+")
_BREAKS = (_PARAGRAPH_END, _SENTENCE_END, _LINE_END, _CLAUSE_END, _SPACE)

# Scripts that put no space between words: Thai to Tibetan, Burmese, Khmer, Tai, kana, ideographs, Yi.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u2e80-\u2fdf\u3005-\u3007\u3021-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\ua4cf\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U00016fe0-\U00018aff\U0001b000-\U0001b16f\U00020000-\U0003fffd]"
)
# Nothing should start with a closing mark, nor with kana and vowels that belong to the sign before them ...
_CLINGS_TO_THE_LEFT = frozenset(
    ",.;:!?)]}%、。，．！？：；」』】）》〉”…ーｰ々〻ゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶะาๅๆฯະາໆຯ"
)
# ... nor ends with an opening bracket, nor with the vowels that Thai and Lao write before their consonant.
_CLINGS_TO_THE_RIGHT = frozenset("([{「『【（《〈“เแโใไເແໂໃໄ")
_APOSTROPHES = frozenset("'’")

# What joins its neighbours, besides marks (category M). To the left: joiners, halfwidth sound marks, the
# vowel AM of Thai and Lao, skin tones, flag tags. To the right: Arabic number signs and their like.
_JOINS_LEFT = re.compile("[\u200c\u200d\uff9e\uff9f\u0e33\u0eb3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_JOINS_RIGHT = re.compile(
    "[\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3"
    "\U0001193f\U00011941\U00011a3a\U00011a84-\U00011a89\U00011d46\U00011f02]"
)
_FLAG_LETTER = re.compile("[\U0001f1e6-\U0001f1ff]")
_HANGUL = re.compile("[\u1100-\u11ff\ua960-\ua97c\uac00-\ud7fb]")
_HANGUL_LEAD = re.compile("[\u1100-\u115f\ua960-\ua97c]")
_HANGUL_REST = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")
_VIRAMA = 9  # the combining class of the signs that fuse two consonants


def find_breaks(text: str, first: int, last: int) -> Iterator[list[int]]:
    """Give the places from `first` to `last` where text breaks well: a list for each kind, best first.

    The kinds are paragraphs, sentences and whole lines, other lines, clauses, and words parted by space. A
    place is where the next part starts, behind the space; an empty list means that there is none of the kind.
    """
    for pattern in _BREAKS:
        places = (match.end() for match in pattern.finditer(text, first, last))
        whole = pattern is _SENTENCE_END  # neither "e.g. this" nor a wrapped line is the end of a sentence
        yield [
            place
            for place in places
            if not splits_character(text, place) and not (whole and text[place : place + 1].islower())
        ]


def splits_group(text: str, place: int) -> bool:
    """Say whether a cut before `text[place]` goes through a word or parts it from a mark that clings."""
    if splits_word(text, place):
        return True
    return 0 < place < len(text) and (
        text[place] in _CLINGS_TO_THE_LEFT or text[place - 1] in _CLINGS_TO_THE_RIGHT
    )


def splits_word(text: str, place: int) -> bool:
    """Say whether a cut before `text[place]` goes through a word.

    Where a script puts no space between words, any two of its characters may be parted.
    """
    if splits_character(text, place):
        return True
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if _UNSPACED.match(before) or _UNSPACED.match(after):
        return False
    if before in _APOSTROPHES:
        before = text[place - 2 : place - 1]
    elif after in _APOSTROPHES:
        after = text[place + 1 : place + 2]
    return _is_word_part(before) and _is_word_part(after)


def splits_character(text: str, place: int) -> bool:
    """Say whether a cut before `text[place]` goes through what a reader sees as one character.

    That is an extended grapheme cluster (Unicode Standard Annex 29) or, on the safe side, a little more:
    CRLF, a letter with its marks, a Hangul syllable, fused consonants, a flag, joined emoji, surrogate pairs.
    """
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if before in "\r\n":
        return before == "\r" and after == "\n"
    if before < "\u0300" and after < "\u0300":
        return False
    if _is_mark(after) or _JOINS_LEFT.match(after):
        return True
    if _JOINS_RIGHT.match(before):
        return unicodedata.category(after) != "Cc"
    if _FLAG_LETTER.match(before) and _FLAG_LETTER.match(after):
        return _count_flag_letters(text, place) % 2 == 1
    if _HANGUL.match(before):
        return bool(_HANGUL_REST.match(after) or (_HANGUL_LEAD.match(before) and _HANGUL_LEAD.match(after)))
    if "\ud800" <= before <= "\udbff":
        return "\udc00" <= after <= "\udfff"
    return _ends_in_virama(text, place) and after.isalpha()


def count_lines(text: str, start: int, end: int) -> int:
    """Count the line ends (LF, CRLF, or CR alone) in `text[start:end]`; a CRLF counts where its LF is."""
    lone_returns = text.count("\r", start, end) - text.count("\r\n", start, end + 1)
    return text.count("\n", start, end) + lone_returns


def _is_word_part(character: str) -> bool:
    return character.isalnum() or character in {"_", "\u00ad"} or _is_mark(character)


def _is_mark(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] == "M"


def _count_flag_letters(text: str, place: int) -> int:
    """Count the flag letters that end before `place`: they pair up from the first."""
    start = place
    while start > 0 and _FLAG_LETTER.match(text[start - 1]):
        start -= 1
    return place - start


def _ends_in_virama(text: str, place: int) -> bool:
    """Say whether the marks before `place` hold a virama, which fuses the consonants around it."""
    while place > 0 and _is_mark(text[place - 1]):
        if unicodedata.combining(text[place - 1]) == _VIRAMA:
            return True
        place -= 1
    return False
