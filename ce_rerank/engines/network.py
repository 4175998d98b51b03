"""The one shape of all rerankers: a backbone, the token whose vector is pooled, and a float32 head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..models.checkpoint import LONGEST

_POOLINGS: dict[str, Literal["first", "last", "mean"]] = {"cls": "first", "lasttoken": "last", "mean": "mean"}


class Network(torch.nn.Module):
    """A reranker as a backbone, the token whose vector is pooled, and a head.

    `pooling` is `first`, `last` or `mean`. The head maps a float32 vector to one float32 number.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        pooling: Literal["first", "last", "mean"],
        head: torch.nn.Module,
        *,
        pads_left: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = head
        self.pads_left = pads_left
        self.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits of a batch, of shape (pairs, 1)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        logits: torch.Tensor = self.head(self._pool(hidden, attention_mask))
        return logits

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the float32 vectors that the head reads, of shape (pairs, width)."""
        if self.pooling == "mean":
            weights = mask[:, :, None].float()
            return (hidden * weights).sum(1) / weights.sum(1)
        if self.pooling == "first" and not self.pads_left:
            return hidden[:, 0].float()
        if self.pooling == "last" and self.pads_left:
            return hidden[:, -1].float()
        lengths = mask.sum(1)
        places = mask.shape[1] - lengths if self.pooling == "first" else lengths - 1
        places = places[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, places)[:, 0].float()


class Whole(torch.nn.Module):
    """A model as sentence-transformers runs it, with its inputs besides the ids, such as the modality."""

    def __init__(self, cross_encoder: CrossEncoder, fed: Mapping[str, Any]) -> None:
        super().__init__()
        self.cross_encoder = cross_encoder
        self.constants = {name: one for name, one in fed.items() if not isinstance(one, torch.Tensor)}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scores of a batch, before the activation."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        features = {**self.constants, "input_ids": input_ids, "attention_mask": attention_mask, **types}
        found = self.cross_encoder(features)
        if "scores" not in found:
            raise ValueError("none of its modules gives a score")
        scores: torch.Tensor = found["scores"]
        return scores


class _Answer(torch.nn.Module):
    """The head of a causal model as one vector: how much likelier one token is next than another.

    sentence-transformers subtracts two logits in the model's precision; in bf16 logits near 18 have steps of
    1/16.
    """

    def __init__(self, words: torch.nn.Linear, score: LogitScore) -> None:
        super().__init__()
        answers = [token for token in (score.true_token_id, score.false_token_id) if token is not None]
        weights = words.weight.detach()[answers].float()
        biases = torch.zeros(len(answers)) if words.bias is None else words.bias.detach()[answers].float()
        self.vector = torch.nn.Parameter(weights[0] - weights[1:].sum(0))
        self.offset = torch.nn.Parameter((biases[:1] - biases[1:].sum()).to(weights.device))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors * self.vector).sum(-1, keepdim=True) + self.offset


class _Modules(torch.nn.Module):
    """The modules of sentence-transformers after its pooling."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        super().__init__()
        self.modules_behind = torch.nn.ModuleList(modules)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        features = {"sentence_embedding": vectors}
        for module in self.modules_behind:
            features = module(features)
        return features["scores"]


class _Classifier(torch.nn.Module):
    """The head of a classifier of transformers, which reads the vectors of its backbone."""

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        self.classifier = copy.copy(classifier)
        given = _Given(getattr(classifier.base_model, "pooler", None))
        self.classifier._modules = {**classifier._modules, classifier.base_model_prefix: given}

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(inputs_embeds=vectors[:, None]).logits
        return logits


class _Given(torch.nn.Module):
    """Stands for a backbone: it returns the vectors that it is given as hidden states."""

    def __init__(self, pooler: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return _Output(last_hidden_state=inputs_embeds, pooler_output=pooled)


@dataclass
class _Output(BaseModelOutputWithPooling):  # type: ignore[misc]
    """What any backbone returns; causal ones return a cache, by the one name or the other."""

    past_key_values: Any = None
    cache: Any = None


def find_networks(model: CrossEncoder, pads_left: bool) -> Iterator[Network]:
    """Yield the ways in which a model may be one backbone, pooling and head."""
    transformer, *others = model
    hugging_face = transformer.model
    if len(others) == 1 and isinstance(others[0], LogitScore):
        head: torch.nn.Module = _Answer(hugging_face.get_output_embeddings(), others[0])
        yield Network(hugging_face.base_model, "last", head, pads_left=pads_left)
    elif others and isinstance(others[0], Pooling) and others[0].pooling_mode in _POOLINGS:
        head = copy.deepcopy(_Modules(others[1:])).float()
        yield Network(hugging_face, _POOLINGS[others[0].pooling_mode], head, pads_left=pads_left)
    elif not others and hugging_face.base_model is not hugging_face:
        head = copy.deepcopy(_Classifier(hugging_face)).float()
        for pooling in _POOLINGS.values():
            yield Network(hugging_face.base_model, pooling, head, pads_left=pads_left)


def find_score_layer(module: torch.nn.Module) -> str | None:
    """Return the name of the last layer that maps a vector to one number; None if there is none."""
    names = [
        name
        for name, layer in module.named_modules()
        if type(layer) is torch.nn.Linear and layer.out_features == 1
    ]
    return names[-1] if names else None


def longest_pair(model: Any) -> int:
    """Return the most tokens that a model takes: the limit of its tokenizer and of its positions."""
    limit = min(model.max_seq_length or LONGEST, LONGEST)
    for module in model.modules():
        positions = getattr(getattr(module, "position_embeddings", None), "num_embeddings", None)
        if positions is not None:
            limit = min(limit, positions - first_position(module))
    return int(limit)


def first_position(model: torch.nn.Module) -> int:
    """Return the position of the first token: 0 or, in RoBERTa's family, the padding token's id plus 1."""
    for module in model.modules():
        padding_place = getattr(module, "padding_idx", None)
        if hasattr(module, "position_embeddings") and isinstance(padding_place, int):
            return padding_place + 1
    return 0
