"""The nouns of the program: frozen, slotted, and free of anything heavy.

Everything that flows through the pipeline is one of these. They hold what was read and what was found out,
and know nothing about files, models or terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

DocumentId = str | int
Pair = tuple[str, str]
"""A query and the document, or passage, that is scored against it."""

ScoreScale = Literal["model", "logit", "sigmoid"]
LongPolicy = Literal["truncate", "chunk", "error"]
EngineName = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be scored, with everything that came along with it.

    `fields` is the input object as it was read, in its own order, empty for plain text. `text_fields` names
    the top-level fields that `text` was made from. `origin` is where it was read (`hits.jsonl:17`), for
    messages; empty when it came from Python.
    """

    text: str
    id: DocumentId | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    text_fields: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What documents are ranked against. `fields` holds what else its row carried."""

    text: str
    id: DocumentId | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A window of a document: `text == document.text[start:end]`, offsets in characters (code points).

    `line` is the line of the document, from 1, on which the passage starts.
    """

    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document with its score and its place.

    `index` is its place in the input, from 0; `rank` its place in the output, from 1. `score` is exactly the
    float32 that the model gave, widened. `tokens` counts what the model was fed: query, document (or the
    best passage) and special tokens. `truncated` is True when a part of the document was not read, and
    `characters_read` is the offset where reading stopped.
    """

    document: Document
    index: int
    rank: int
    score: float
    tokens: int = 0
    truncated: bool = False
    characters_read: int = 0
    passage: Passage | None = None

    @property
    def text(self) -> str:
        """The document's text."""
        return self.document.text

    @property
    def id(self) -> DocumentId | None:
        """The document's id, if it has one."""
        return self.document.id

    @property
    def start(self) -> int | None:
        """Where the best passage starts in `text`, in characters; None unless it was chunked."""
        return self.passage.start if self.passage else None

    @property
    def end(self) -> int | None:
        """Where the best passage ends in `text`, in characters; None unless it was chunked."""
        return self.passage.end if self.passage else None


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """The documents of one query, best first: a sequence of `RankedDocument`.

    `candidate_count` is how many documents were scored, before `top_k` and `min_score`;
    `truncated_count` how many of those were not read to their end.
    """

    query: Query
    results: tuple[RankedDocument, ...]
    candidate_count: int = 0
    truncated_count: int = 0

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
