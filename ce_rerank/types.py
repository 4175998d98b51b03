"""The nouns of the program: queries, documents, options, rankings.

They hold data and know nothing about files, models or terminals. Importing this module loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from numbers import Real
from operator import add
from typing import Any, Literal, Self, SupportsIndex, TypedDict, get_args, overload

from .errors import UsageError

DocumentId = str | int
Pair = tuple[str, str]
"""A query and the document, or passage, that is scored against it."""

OnProgress = Callable[[int], None]
"""Called with the number of rows, or of documents, that have just been scored."""

ScoreScale = Literal["model", "logit", "sigmoid"]
LongPolicy = Literal["truncate", "chunk", "error"]
PoolName = Literal["max", "mean-top3", "first"]
EngineName = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be scored, with the input object that it came from.

    `fields` is that object, in its own order; it is empty for plain text. `text_fields` names the fields that
    `text` was made from; a name may be a dotted path. `origin` is where it was read (`hits.jsonl:17`), for
    messages; it is empty for a document that was given to `rank` in Python.
    """

    text: str
    id: DocumentId | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    text_fields: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What documents are ranked against. `fields` holds the other fields of its row."""

    text: str
    id: DocumentId | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query and the documents to rank for it, in the order of the input; there may be none.

    `first_scores` has the first stage's score of each document; it is empty without a first stage. If these
    are not all documents of the input, `places` are their places in it, from 0; `left_out` is the number of
    documents that the first stage did not choose.
    """

    query: Query
    documents: Sequence[Document]
    first_scores: Sequence[float] = ()
    places: Sequence[int] | None = None
    left_out: int = 0

    def only(self, places: Sequence[int]) -> Candidates:
        """Return the candidates at some places; they keep their places in the input."""
        scores, in_input = self.first_scores, self.places
        return replace(
            self,
            documents=[self.documents[place] for place in places],
            first_scores=[scores[place] for place in places] if scores else (),
            places=list(places) if in_input is None else [in_input[place] for place in places],
        )


def require_whole_number(name: str, value: object, *, least: int = 1) -> None:
    """Raise UsageError for an argument that is neither None nor a whole number of at least `least`."""
    if value is not None and (not isinstance(value, SupportsIndex) or value.__index__() < least):
        raise UsageError(f"{name} is {value!r}.", hint=f"Give a whole number, at least {least}.")


def require_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not among those allowed."""
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}.", hint=f"Give {', '.join(allowed)}.")


class RankKeywords(TypedDict, total=False):
    """The keywords of `Reranker.rank` and `rank_many`: those of `RankOptions`."""

    top_k: int | None
    min_score: float | None
    scores: ScoreScale
    long: LongPolicy
    chunk_tokens: int | None
    chunk_overlap: int | None
    pool: PoolName
    bm25: int | None
    bm25_language: str
    first_score_field: str | None
    blend: float


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How documents are ranked, whatever the model.

    `top_k` is how many documents to keep; None keeps all. `min_score` leaves out lower scores. It is on the
    scale that `scores` names.

    `long` says what to do with a document that is longer than the model's limit. `truncate` reads its
    beginning. `chunk` cuts it into passages, scores each, and makes one score of theirs by `pool`; a passage
    has `chunk_tokens` tokens (default: 192) and shares `chunk_overlap` (default: a quarter) with the next.
    `error` refuses the document. A document that fits is cut into passages only if `chunk_tokens` is given.

    `bm25` is how many documents BM25 chooses to be scored; `bm25_language` is one of `retrieval.languages()`.
    `first_score_field` names the field of a document that has a first stage's score; a minus sign before the
    name means that less is better. `blend`, from 0 to 1, is the weight of the first stage's score beside the
    model's, see `ranking.blend`.
    """

    top_k: int | None = None
    min_score: float | None = None
    scores: ScoreScale = "model"
    long: LongPolicy = "truncate"
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None
    pool: PoolName = "max"
    bm25: int | None = None
    bm25_language: str = "english"
    first_score_field: str | None = None
    blend: float = 0.0

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> Self:
        """Return the options of these keywords; raise UsageError for one that does not exist."""
        known = RankKeywords.__annotations__
        if unknown := next((name for name in keywords if name not in known), None):
            raise UsageError(f"There is no argument {unknown}.", hint=f"There are {', '.join(known)}.")
        return cls(**keywords)

    def for_scoring(self) -> Self:
        """Return the options that matter when documents are scored; the others matter for the ranking."""
        names = ("long", "chunk_tokens", "chunk_overlap", "pool")
        return type(self)(**{name: getattr(self, name) for name in names})

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("chunk_tokens", 1), ("chunk_overlap", 0), ("bm25", 1)):
            require_whole_number(name, getattr(self, name), least=least)
        for name, kind in (("scores", ScoreScale), ("long", LongPolicy), ("pool", PoolName)):
            require_choice(name, getattr(self, name), get_args(kind))
        if not isinstance(self.min_score, Real | None) or self.min_score != self.min_score:
            raise UsageError(f"--min-score is {self.min_score!r}.", hint="Give a number.")
        if not isinstance(self.blend, Real) or not 0 <= self.blend <= 1:
            raise UsageError(f"--blend is {self.blend!r}.", hint="Give a number from 0 to 1.")
        if self.bm25 is not None and self.first_score_field is not None:
            raise UsageError("Both --bm25 and --first-score-field are given.", hint="Give one of them.")
        if self.bm25 is None and self.bm25_language != "english":
            raise UsageError("--bm25-language is about --bm25.", hint="Give --bm25 N, or leave it out.")
        if self.long != "chunk" and (self.chunk_tokens, self.chunk_overlap, self.pool) != (None, None, "max"):
            raise UsageError(
                f"--chunk-tokens, --chunk-overlap and --pool are about passages, and --long is {self.long}.",
                hint="Give --long chunk, or leave them out.",
            )


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: `text == document.text[start:end]`, offsets in characters (code points).

    `line` is the line of the document, from 1, that has the passage's first word.
    """

    text: str
    start: int
    end: int
    line: int


# Not frozen: that would take five times as long to make, and there is one for each pair.
@dataclass(slots=True, unsafe_hash=True)
class RankedDocument:
    """A document with its score and its place.

    `index` is its place in the input, from 0; `rank` its place in the output, from 1. `score` has the value
    of the model's float32; it is -inf for a blank document, which is not scored. `tokens` is how many the
    model read: of the query, of the document or its best passage, and special ones. `truncated` is whether a
    part of the document was not read, and `characters_read` is the offset in the document at which reading
    stopped. `first_score` is the first stage's score, if there is one, and `first_rank` the document's place,
    from 1, in the first stage's order. `model_score` is the model's score if `score` is a blend.
    """

    document: Document
    index: int
    rank: int
    score: float
    tokens: int = 0
    truncated: bool = False
    characters_read: int = 0
    passage: Passage | None = None
    model_score: float | None = None
    first_score: float | None = None
    first_rank: int | None = None

    @property
    def text(self) -> str:
        """The document's text."""
        return self.document.text

    @property
    def id(self) -> DocumentId | None:
        """The document's id, if it has one."""
        return self.document.id


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the documents was read. All fields but `documents` count a part of them.

    `truncated` documents were cut; together they have `cut_characters` characters, of which the model read
    `read_characters`. `blank` documents have no letter, digit or symbol, and were not scored. `unknown`
    documents have no word of the model's vocabulary. `tokens` is how many the model read. `left_out`
    documents were not chosen by the first stage; they do not count among `documents`.
    """

    documents: int = 0
    truncated: int = 0
    cut_characters: int = 0
    read_characters: int = 0
    blank: int = 0
    tokens: int = 0
    left_out: int = 0
    unknown: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, astuple(self), astuple(other)))

    def describe(self, max_length: int, long: LongPolicy | None = None) -> Iterator[str]:
        """Yield a sentence for each kind of document that was not read, or not understood.

        `long` is the policy for long documents; if it is given, the sentence says how to read them whole.
        """
        is_chunked = long == "chunk"
        what = "read in one passage alone" if is_chunked else f"cut at {max_length:,} tokens"
        way_out = f" Give {'--pool max' if is_chunked else '--long chunk'} to score them whole."
        unread = min(max(1 - self.read_characters / max(1, self.cut_characters), 0.01), 0.99)
        for count, fact in (
            (
                self.truncated,
                f"were {what}, and {unread:.0%} of their text was not read.{way_out if long else ''}",
            ),
            (self.blank, "have no letter, digit or symbol: they are not scored, and rank last."),
            (self.unknown, "have no word that the model knows: their scores do not come from their text."),
        ):
            if count:
                yield f"{count:,} of {self.documents:,} documents {fact}"


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """The documents of one query, best first: a sequence of `RankedDocument`.

    `coverage` counts all documents, including those that `top_k` or `min_score` left out.
    """

    query: Query
    results: tuple[RankedDocument, ...]
    coverage: Coverage = Coverage()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self.results)

    @overload
    def __getitem__(self, place: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RankedDocument]: ...
    def __getitem__(self, place: int | slice) -> RankedDocument | Sequence[RankedDocument]:
        return self.results[place]
