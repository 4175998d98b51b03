"""Examines this machine: what is installed, what it can do, what is cached, and whether ranking works.

Gives findings and prints nothing. No part takes another along when it fails: what may crash runs in a process
of its own, and what cannot be found out is a finding, too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CeRerankError, UnavailableError
from .console import describe_size
from .findings import Finding, run_part
from .machine import find_cpu, find_gpus, find_openvino, find_torch, find_versions

HUB_SECONDS = 3
_RANK_SECONDS = 1800  # a first run compiles the model
_LITTLE_ROOM = 10**9  # bytes
_REINSTALL = "pip install --upgrade --force-reinstall ce-rerank"
# What sentence-transformers gives in float32 for the documents of checkup_worker.py.
_GOLDEN = {"offline/ms-marco-MiniLM-L-12-v2": (5.1584015, -11.261237, -10.693955)}


def examine(keywords: dict[str, Any], announce: Callable[[str], None]) -> Iterator[Finding]:
    """Examine everything, one area after the other; the last is the self-test.

    Ranking works unless its finding is red. `keywords` are those of `Reranker`; `announce` is told what is
    being looked at.
    """
    areas: dict[str, Callable[[], Finding]] = {
        "versions": find_versions,
        "cpu": find_cpu,
        "gpu": find_gpus,
        "torch": find_torch,
        "openvino": find_openvino,
        "cache": find_our_cache,
        "hub's cache": find_hub_cache,
        "hub": lambda: find_hub(offline=keywords["offline"]),
    }
    found: dict[str, Finding] = {}
    for area, find in areas.items():
        announce(f"Looking at the {area}")
        found[area] = _guard(area, find)
        yield found[area]
    announce("Looking at the model")
    with_hub = found["hub"].facts.get("reachable") is True
    model = _guard("model", lambda: find_model(keywords, with_hub=with_hub))
    yield model
    announce("Ranking three documents")
    yield _guard("self-test", lambda: try_ranking(keywords, model))


def find_our_cache() -> Finding:
    """Say what lies in our own cache, and whether more can be written."""
    from ..models.store import CACHE_VARIABLE, cache_folder

    return _examine_cache("cache", cache_folder(), CACHE_VARIABLE)


def find_hub_cache() -> Finding:
    """Say what lies in the hub's cache, and whether more can be written."""
    from ..models.hub_cache import hub_cache_folder, list_cached_names

    finding = _examine_cache("hub's cache", hub_cache_folder(), "HF_HUB_CACHE")
    finding.facts["models"] = len(list_cached_names())
    return finding


def find_hub(*, offline: bool) -> Finding:
    """Say whether the hub answers within three seconds."""
    from ..models.hub import HubUnreachableError, check_hub, hub_endpoint, is_hub_offline

    endpoint = hub_endpoint()
    facts = {"endpoint": endpoint, "reachable": None}
    if offline or is_hub_offline():
        switch = "--offline" if offline else "HF_HUB_OFFLINE"
        text = f"{endpoint} is not asked: {switch} forbids it."
        return Finding("hub", "yellow", text, f"Leave {switch} out to fetch models.", facts)
    try:
        check_hub(HUB_SECONDS)
    except HubUnreachableError as error:
        return Finding(
            "hub",
            "yellow",
            f"{endpoint} cannot be reached ({error}); models that are here work without it.",
            "Set HF_ENDPOINT for a mirror, or bring a model from elsewhere by `ce-rerank models export`.",
            {**facts, "reachable": False},
        )
    return Finding("hub", "green", f"{endpoint} answers.", "", {**facts, "reachable": True})


def find_model(keywords: dict[str, Any], *, with_hub: bool) -> Finding:
    """Say whether the model is here, and compiled."""
    from ..engines.openvino.cache import find_compiled, find_obstacle
    from ..models.inventory import find_model as find_model_entry
    from ..models.offline import INSTALL_HINT
    from ..models.store import OFFLINE_NAME, default_model, resolve_checkpoint

    name = keywords["model"] or default_model()
    named = {key: keywords[key] for key in ("revision", "trust_remote_code", "allow_pickle")}
    facts: dict[str, Any] = {"name": name, "is_default": keywords["model"] is None, "here": False}
    try:
        checkpoint = resolve_checkpoint(name, offline=True, **named)
    except UnavailableError as error:
        if find_model_entry(name) is None or name == OFFLINE_NAME:
            return Finding("model", "red", error.message, error.hint, facts)
        text, remedy = _explain_absence(name, named, with_hub=with_hub)
        if remedy is None:
            remedy = INSTALL_HINT if keywords["model"] is None else error.hint
        return Finding("model", "red", text, remedy, facts)
    facts |= {"here": True, "folder": str(checkpoint.folder), "revision": checkpoint.revision}
    compiled = find_compiled(checkpoint)
    reason = None if compiled else find_obstacle(checkpoint)
    facts |= {"compiled": compiled is not None, "not_compiled_because": reason}
    state = (
        "compiled" if compiled else f"run by torch: {reason}" if reason else "compiled when it is first used"
    )
    return Finding("model", "green", f"{checkpoint.name} is here, {state}.", "", facts)


def _explain_absence(name: str, named: dict[str, Any], *, with_hub: bool) -> tuple[str, str | None]:
    """Say what is wrong with a hub model as it lies here, and what mends it; None where only a hub would."""
    from ..models.store import find_cached_fault

    fault = find_cached_fault(name, **named)
    permitted = find_cached_fault(name, **{**named, "allow_pickle": True})
    at_revision = f" at revision {named['revision']!r}" if named["revision"] else ""
    text = f"{name} {fault.cause}." if fault else f"{name} is not here{at_revision}."
    if fault and permitted is None:
        return text, fault.hint  # all of it is here, and there is nothing to fetch
    if not with_hub:
        return text, None
    command = ["ce-rerank", "models", "pull", name]
    if named["revision"]:
        command += ["--revision", named["revision"]]
    if named["trust_remote_code"]:
        command.append("--trust-remote-code")
    if named["allow_pickle"] or fault != permitted:
        command.append("--allow-pickle")
    return text, shlex.join(command)


def try_ranking(keywords: dict[str, Any], model: Finding) -> Finding:
    """Rank three documents in a process of its own, and check the order and the golden scores."""
    if model.status == "red":
        return Finding("self-test", "red", "Nothing was ranked: there is no model.", model.remedy)
    answer = run_part("rank", {**keywords, "offline": True}, _RANK_SECONDS)
    if isinstance(answer, str):
        return Finding(
            "self-test", "red", f"Ranking fails: {answer}", "Run `ce-rerank -v QUERY DOCUMENT` to see more."
        )
    facts = dict(answer)
    fault = _find_infidelity(answer)
    if fault is not None:
        return Finding(
            "self-test",
            "red",
            f"{answer['description']}: {fault}.",
            "Run `ce-rerank models pull` on it again.",
            facts,
        )
    done = f"Three documents in {answer['elapsed_seconds']:.1f} s by {answer['description']}"
    if not answer["golden"] and answer["model"] not in _GOLDEN:
        text = f"{done}; the order is right, golden scores are not known."
        return Finding("self-test", "yellow", text, "`ce-rerank bench` compares the engines here.", facts)
    return Finding("self-test", "green", f"{done}; order and golden scores are right.", "", facts)


def _find_infidelity(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with the scores of a self-test; None when nothing is."""
    import numpy as np

    from ..engines.openvino.engine import TOLERANCES, find_infidelity

    if answer["order"][0] != 0:
        return "the document that answers the query does not come first"
    precision = answer["precision"] if answer["precision"] in TOLERANCES else "bf16"
    known = _GOLDEN.get(answer["model"])
    expected = [*(known or ()), *(reference for reference, _ in answer["golden"])]
    scores = [*(answer["scores"] if known else ()), *(score for _, score in answer["golden"])]
    if not expected:
        return None
    return find_infidelity(np.array(expected, np.float32), np.array(scores, np.float32), precision)


def _examine_cache(area: str, folder: Path, variable: str) -> Finding:
    from ..models.hub_cache import measure_folder

    size_bytes = measure_folder(folder)
    facts: dict[str, Any] = {
        "folder": str(folder),
        "size_bytes": size_bytes,
        "writable": True,
        "free_bytes": None,
    }
    text = f"{describe_size(size_bytes)} in {folder}"
    try:
        there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        free_bytes = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        facts["writable"] = False
        return Finding(
            area,
            "yellow",
            f"{text}, which cannot be written: {error.strerror or error}.",
            f"Mend its permissions, or name another folder with {variable}.",
            facts,
        )
    facts["free_bytes"] = free_bytes
    text = f"{text}; {describe_size(free_bytes)} are free."
    if free_bytes < _LITTLE_ROOM:
        return Finding(area, "yellow", text, f"Make room, or name another folder with {variable}.", facts)
    return Finding(area, "green", text, "", facts)


def _guard(area: str, find: Callable[[], Finding]) -> Finding:
    """Find out about an area; that it cannot be done is a finding, too."""
    try:
        return find()
    except CeRerankError as error:
        return Finding(area, "red", error.message, error.hint)
    except Exception as error:
        return Finding(area, "red", f"It cannot be examined: {type(error).__name__}: {error}", _REINSTALL)
