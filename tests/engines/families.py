"""Tiny checkpoints of every family of encoders, with random weights and tokenizers trained on the spot.

`make_checkpoint(family, folder)` writes an ordinary checkpoint with one label, as its authors would have; its
weights are large enough for scores to differ by more than rounding. The other makers write what cannot rank,
or not by this road.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ce_rerank.engines.model import quiet_libraries
from ce_rerank.models.checkpoint import Checkpoint

transformers.utils.logging.disable_progress_bar()

_LONG = 256  # tokens, where a template takes many
MAX_LENGTH = 96
"""The most tokens that a pair may have in the checkpoints of every family."""

_WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.25,
    "num_labels": 1,
}
_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and it's not the first time.",
    "A keeper trims the wick, winds the clockwork and writes the weather into the log.",
    "Tides rise and fall because the moon's gravity pulls the oceans.",
    "Déjà vu: naïve café owners re-heat 3.14 litres of coffee, don't they?",
    "Das Licht der Sonne wird an den Molekülen der Luft gestreut, blaues stärker als rotes.",
    "月球的引力牵动海水，所以海面每天涨落两次。",
    "def f(xs):\n    return sorted(xs, key=len, reverse=True)",
)

ODD_TEXTS = (
    "",
    " ",
    "plain words",
    "MiXeD Case, ALL CAPS",
    "  leading and   inner   spaces  ",
    "tabs\tand\nnew\r\nlines",
    "na\u0308ive e\u0301 déjà ﬁne Ⅷ ½ ①",
    "月球的引力牵动海水",
    "ภาษาไทย हिन्दी 한국어 עברית العربية",
    "🙂 👩‍👩‍👧 🇩🇪 flags",
    "[SEP] [CLS] </s> <s> [MASK] <mask> <pad> [PAD] <|endoftext|>",
    "zero\u0000width\u200bnon\u00a0breaking\u00adsoft\ufeff",
    "supercalifragilisticexpialidocious" * 8,
    "don't can't we'll it's — “quotes” ‘single’ …",
    "word " * 300,
    "长" * 300,
    "1234567890 " * 40,
    "trailing space ",
    "\u202eright to left\u202c",
)  # fmt: skip
"""Texts that tokenizers treat in different ways; the longest are beyond every limit here."""


def make_checkpoint(family: str, folder: Path, *, seed: int = 0, **config: Any) -> Checkpoint:
    """Write a checkpoint of one of FAMILIES; `config` overrides the configuration of the model."""
    prefix, own, make_tokenizer = _FAMILIES[family]
    tokenizer = make_tokenizer()
    settings = {
        **_WIDTHS,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": MAX_LENGTH,
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
        **own,
        **config,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    torch.manual_seed(seed)
    classifier = getattr(transformers, f"{prefix}ForSequenceClassification")
    return _save(classifier(getattr(transformers, f"{prefix}Config")(**given)), tokenizer, folder)


def make_one_label_sigmoid(folder: Path) -> Checkpoint:
    """Write a BERT whose configuration names no activation, so that sentence-transformers takes sigmoid."""
    return make_checkpoint("bert", folder, sentence_transformers=None)


def make_uncompilable(folder: Path) -> Checkpoint:
    """Write a BERT with an activation that torch alone has."""
    return make_checkpoint(
        "bert", folder, sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"}
    )


CHAT_TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "<|answer|>"
)


def make_causal_reranker(
    folder: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    words: tuple[str, ...] = ("yes", "no"),
    **tokens: str,
) -> Checkpoint:
    """Write a causal language model that is asked by a chat template, and has `words` to answer with."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(*words, "<|pad|>", "<|user|>", "<|answer|>"),
        **{"pad_token": "<|pad|>", "eos_token": "<|pad|>", **tokens},
        model_max_length=MAX_LENGTH,
    )
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            **{**_WIDTHS, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 8},
            max_position_embeddings=MAX_LENGTH,
        )
    )
    return _save(model, tokenizer, folder)


def make_modular_reranker(
    folder: Path, *, last: torch.nn.Module, prompts: dict[str, str] | None = None
) -> Checkpoint:
    """Write a ModernBERT whose first token's vector goes through layers, as in the Ettin family.

    `last` is the activation inside the layer that gives the score. The first of the prompts is the default.
    """
    encoder = make_checkpoint("modernbert", folder / "encoder").folder
    torch.manual_seed(0)
    with quiet_libraries():
        modules = [
            Transformer(str(encoder)),
            Pooling(32, pooling_mode="cls"),
            Dense(32, 32, bias=False, activation_function=torch.nn.GELU()),
            LayerNorm(32),
            Dense(32, 1, activation_function=last, module_output_name="scores"),
        ]
        model = CrossEncoder(
            modules=modules,
            device="cpu",
            activation_fn=torch.nn.Identity(),
            prompts=prompts,
            default_prompt_name=next(iter(prompts)) if prompts else None,
        )
        model.save_pretrained(str(folder / "model"))
    return Checkpoint(name="modular", folder=folder / "model", source="folder")


QUERY_AND_DOCUMENT = (
    "{%- set task = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first -%}"
    "{%- set query = messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first -%}"
    "{%- set text = messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first -%}"
)
_CAUSAL: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...], str | None]] = {
    # The model, its own settings, the template, the words for yes and no, and the prompt.
    "qwen3": (
        "Qwen3",
        {"head_dim": 8, "num_key_value_heads": 2},
        "<|user|>system\nJudge by the Query and the Instruct. Answer yes or no.<|answer|>\n<|user|>user\n"
        "<Instruct>: {{ task or 'Given a search query, retrieve passages' }}\n<Query>: {{ query }}\n"
        "<Document>: {{ text }}<|answer|>\n<think>\n\n</think>\n\n",
        ("yes", "no"),
        "Given a web search query, retrieve relevant passages that answer the query",
    ),
    "mxbai": (
        "Qwen2",
        {"num_key_value_heads": 2},
        "<|user|>system\nYou are a judge.<|answer|>\n<|user|>user\n"
        "{% if task %}instruction: {{ task }}\n{% endif %}"
        "query: {{ query | trim }} \ndocument: {{ text | trim }} \nYou are a search relevance expert. "
        "Answer 0 or 1:<|answer|>assistant\n",
        ("1", "0"),
        None,
    ),
    "gemma": (
        "Gemma",
        {"head_dim": 8, "num_key_value_heads": 1},
        "<|user|>A: {{ query }}\nB: {{ text }}\n{{ task or 'Does B answer A? Say Yes.' }}",
        ("Yes",),
        None,
    ),
}
LAYOUTS = (*_CAUSAL, "ettin")
"""Rerankers as they are published in the format of sentence-transformers, prompts and templates included."""


def make_layout(layout: str, folder: Path) -> Checkpoint:
    """Write a reranker in one of LAYOUTS."""
    if layout == "ettin":
        return make_modular_reranker(folder, last=torch.nn.Identity(), prompts={"query": "search: "})
    prefix, own, template, words, prompt = _CAUSAL[layout]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer("<|pad|>", "<|user|>", "<|answer|>", "<|endoftext|>", *words),
        pad_token="<|pad|>",
        eos_token="<|endoftext|>",
        model_max_length=_LONG,
    )
    tokenizer.chat_template = QUERY_AND_DOCUMENT + template
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(
        **{**_WIDTHS, **own, "vocab_size": len(tokenizer), "pad_token_id": 0},
        max_position_embeddings=_LONG,
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    _save(model, tokenizer, folder / "backbone")
    with quiet_libraries():
        transformer = Transformer(str(folder / "backbone"), transformer_task="text-generation")
        ids = [tokenizer.convert_tokens_to_ids(word) for word in words]
        cross_encoder = CrossEncoder(
            modules=[transformer, LogitScore(*ids)],
            device="cpu",
            activation_fn=torch.nn.Identity(),
            prompts={"web": prompt} if prompt else None,
            default_prompt_name="web" if prompt else None,
        )
        cross_encoder.save_pretrained(str(folder / "model"))
    return Checkpoint(name=layout, folder=folder / "model", source="folder")


def change_json(path: Path, **changes: Any) -> None:
    """Change some entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _save(model: Any, tokenizer: Any, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Checkpoint(name=str(folder), folder=folder, source="folder")


@cache
def _wordpiece(special: tuple[str, ...], unknown: str) -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cases = [*_CORPUS, *(text.lower() for text in _CORPUS)]
    tokenizer.train_from_iterator(
        cases, trainers.WordPieceTrainer(vocab_size=500, special_tokens=list(special), show_progress=False)
    )
    return dict(tokenizer.get_vocab())


@cache
def _pieces(special: tuple[str, ...], unknown: str) -> list[tuple[str, float]]:
    """Train sentencepiece's unigram model: pieces with their log probabilities, special ones first."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


@cache
def _byte_pairs(special: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return dict(tokenizer.get_vocab()), merges


def _byte_tokenizer(*special: str) -> Tokenizer:
    vocabulary, merges = _byte_pairs(special)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def _tokenizer(prefix: str, vocab: Any, **settings: Any) -> Any:
    make = getattr(transformers, f"{prefix}Tokenizer")
    return make(vocab=vocab, **{"model_max_length": MAX_LENGTH, **settings})


def _bert_tokenizer(prefix: str = "Bert", **settings: Any) -> Any:
    return _tokenizer(prefix, _wordpiece(_BERT_SPECIAL, "[UNK]"), **settings)


def _roberta_tokenizer() -> Any:
    vocabulary, merges = _byte_pairs(_ROBERTA_SPECIAL)
    # Without a limit of its own, as many published ones are: the model's table of positions must bound it.
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)


def _modernbert_tokenizer() -> Any:
    tokenizer = _byte_tokenizer(*_BERT_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    roles = ("pad", "unk", "cls", "sep", "mask")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{role}_token": name for role, name in zip(roles, _BERT_SPECIAL, strict=True)},
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


# Tables of positions of RoBERTa's family hold two that no token gets.
_OFFSET = {"max_position_embeddings": MAX_LENGTH + 2}
_FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "albert": (
        "Albert",
        {"embedding_size": 16},
        lambda: _tokenizer("Albert", _pieces(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), "<unk>")),
    ),
    "bert": ("Bert", {}, _bert_tokenizer),
    "deberta-v2": (
        "DebertaV2",
        {
            "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0,
            "pooler_hidden_size": 32, "position_biased_input": False,
        },
        lambda: _tokenizer(
            "DebertaV2", _pieces(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), "[UNK]"), unk_id=3
        ),
    ),
    "distilbert": (
        "DistilBert",
        {
            "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "hidden_size": None,
            "num_hidden_layers": None, "num_attention_heads": None, "intermediate_size": None,
        },
        lambda: _bert_tokenizer("DistilBert", model_input_names=["input_ids", "attention_mask"]),
    ),
    "electra": ("Electra", {"embedding_size": 16}, lambda: _bert_tokenizer(do_lower_case=False)),
    "modernbert": (
        "ModernBert",
        {
            "local_attention": 16, "global_attn_every_n_layers": 2, "num_hidden_layers": 4,
            "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
        },
        _modernbert_tokenizer,
    ),
    "mpnet": (
        "MPNet",
        _OFFSET,
        lambda: _tokenizer("MPNet", _wordpiece(("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), "[UNK]")),
    ),
    "roberta": ("Roberta", {**_OFFSET, "type_vocab_size": 1}, _roberta_tokenizer),
    "xlm-roberta": (
        "XLMRoberta",
        {**_OFFSET, "type_vocab_size": 1},
        lambda: _tokenizer("XLMRoberta", _pieces(_ROBERTA_SPECIAL, "<unk>")),
    ),
}  # fmt: skip
FAMILIES = tuple(_FAMILIES)
