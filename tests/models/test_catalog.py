"""Known models: what stands in the catalog, and which names lead to it."""

from __future__ import annotations

import re

import pytest

from ce_rerank.models.catalog import read_catalog, resolve_alias, suggest_names

CATALOG = read_catalog()


def test_no_name_stands_for_two_models() -> None:
    names = [name.lower() for known in CATALOG for name in (known.name, known.alias, *known.other_names)]
    assert sorted(names) == sorted(set(names))


def test_every_entry_says_where_it_is_from() -> None:
    for known in CATALOG:
        assert known.source.startswith("https://")
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", known.name, re.ASCII)
        assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", known.alias)
        assert all(re.fullmatch("[a-z]{2}|multilingual", language) for language in known.languages)
        for quality in known.quality:
            assert 0 < quality.figure < 1
            assert quality.measure.startswith("nDCG@10, ")
            assert quality.source.startswith(("https://", "measured with ce-rerank"))


@pytest.mark.slow
def test_every_family_is_tried_with_a_tiny_model_of_its_architecture() -> None:
    from engines import families

    from ce_rerank.engines.openvino.cache import FAMILIES

    encoders = {known.family for known in CATALOG if known.kind == "encoder" and known.family}
    assert encoders <= set(families.FAMILIES)
    assert encoders <= set(FAMILIES)
    causal = {known.family for known in CATALOG if known.kind == "causal"}
    assert causal == {"qwen2", "qwen3"}  # in engines/test_layouts.py
    assert all(known.family or known.needs_remote_code for known in CATALOG)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("minilm-l6", "cross-encoder/ms-marco-MiniLM-L-6-v2"),
        ("BGE-v2-M3", "BAAI/bge-reranker-v2-m3"),
        ("offline", "offline/ms-marco-MiniLM-L-12-v2"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("someone/something", "someone/something"),
    ],
)
def test_an_alias_stands_for_a_whole_name_and_all_else_for_itself(alias: str, name: str) -> None:
    assert resolve_alias(alias) == name


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("minilml6", "minilm-l6"),
        ("BAAI/bge-reranker-v2-m4", "BAAI/bge-reranker-v2-m3"),
        ("cross-encodr/ms-marco-electra", "cross-encoder/ms-marco-electra-base"),
        ("our-rerankr", "me/our-reranker"),
    ],
)
def test_the_nearest_name_is_suggested(typed: str, suggested: str) -> None:
    assert suggest_names(typed, ["me/our-reranker"])[0] == suggested
