"""Engines: rows of token ids in, logits out. This module chooses the engine for a model, and loads it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import UnavailableError, UsageError, raise_if_interrupted
from ..types import Precision
from .base import EngineOptions
from .hardware import IMPORT_FAILURES, find_device, has_int8, has_native_bf16

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from .base import Engine

log = logging.getLogger("ce_rerank")


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine (openvino or torch), device and precision that run a model, and the reason, as a clause."""

    engine: str
    device: str
    precision: Precision
    reason: str


def choose_engine(checkpoint: Checkpoint, options: EngineOptions) -> Choice:
    """Decide what runs a checkpoint, without loading it; torch is loaded only if there may be a GPU.

    Raises UnavailableError for a model that cannot rank and for a device or engine that is unavailable, and
    UsageError for options that contradict each other.
    """
    checkpoint.require_usable(allow_pickle=True)
    is_compiled = checkpoint.source == "compiled"
    if is_compiled and (options.engine == "torch" or options.device not in ("auto", "cpu")):
        asked = "--engine torch" if options.engine == "torch" else f"--device {options.device}"
        raise UsageError(
            f"{checkpoint.name} is a compiled model, which the CPU runs by openvino, not {asked}.",
            hint=f"Leave {asked} out, or give the model that it was compiled from.",
        )
    device = "cpu" if is_compiled else find_device(options.device)
    is_on_cpu, precision = device == "cpu", options.precision
    if precision == "int8" and (options.engine == "torch" or not is_on_cpu or not has_int8()):
        raise UnavailableError(
            "int8 is a precision of openvino on CPUs with AVX2-VNNI, AVX-512 VNNI or AMX.",
            hint="Give --precision bf16 or fp32, or --device cpu with --engine auto.",
        )
    if precision == "fp16" and is_on_cpu:
        raise UnavailableError("fp16 is not a precision of the CPU.", hint="Give --precision bf16 or fp32.")
    if options.engine == "openvino" and not is_on_cpu:
        raise UsageError(
            f"--engine openvino runs on the CPU, and the device is {device}.",
            hint="Give --device cpu, or --engine torch.",
        )
    if not is_on_cpu or options.engine == "torch":
        return _choose_torch(options, device, "--engine torch" if is_on_cpu else f"there is {device}")
    from .openvino.cache import find_obstacle

    if obstacle := find_obstacle(checkpoint):
        return _choose_fallback(checkpoint, options, obstacle)
    if precision != "auto":
        return Choice("openvino", device, precision, f"--precision {precision}")
    precision, has = ("bf16", "") if has_native_bf16() else ("fp32", "no ")
    return Choice("openvino", device, precision, f"it can be compiled, and the CPU has {has}native bf16")


def load_engine(checkpoint: Checkpoint, options: EngineOptions) -> Engine:
    """Load a checkpoint into the engine that the options name, or the best one for the device.

    If the model cannot be compiled, its compiled form cannot be kept, or it does not give the reference
    scores, torch runs it, and that is logged. Raises UnavailableError if the device, the engine or the model
    is unavailable, and UsageError for options that contradict each other or the model.
    """
    try:
        choice = choose_engine(checkpoint, options)
        level = logging.INFO
        if choice.engine == "openvino":
            from .openvino.engine import load_openvino_engine
            from .openvino.runtime import CannotCompileError

            precisions: list[Precision] = [choice.precision]
            if options.precision == "auto" and choice.precision != "fp32":
                precisions.append("fp32")
            try:
                return load_openvino_engine(checkpoint, options, precisions)
            except (CannotCompileError, OSError) as error:  # OSError: the cache cannot be written
                choice = _choose_fallback(checkpoint, options, str(error))
                level = logging.WARNING if getattr(error, "passing", True) else logging.INFO
        log.log(level, "Torch runs %s on %s: %s.", checkpoint.name, choice.device, choice.reason)
        try:
            from .torch import load_torch_engine
        except IMPORT_FAILURES as error:
            raise UnavailableError(
                f"torch, which would run {checkpoint.name}, cannot be loaded: {error}.",
                hint="`ce-rerank doctor` says what is wrong here.",
            ) from error
        return load_torch_engine(
            checkpoint, replace(options, device=choice.device, precision=choice.precision)
        )
    finally:
        # An import may have lost a signal; then neither the engine nor an error counts.
        raise_if_interrupted()


def _choose_torch(options: EngineOptions, device: str, reason: str) -> Choice:
    """Choose torch, in bf16 by default where a GPU has it natively."""
    precision = options.precision
    if precision == "auto":
        precision = "fp32"
        if device.startswith("cuda"):
            import torch

            if torch.cuda.is_bf16_supported(including_emulation=False):
                precision = "bf16"
    return Choice("torch", device, precision, reason)


def _choose_fallback(checkpoint: Checkpoint, options: EngineOptions, obstacle: str) -> Choice:
    """Choose torch for a model that openvino cannot run; raise UnavailableError if torch is no other way."""
    is_int8 = options.precision == "int8"
    if options.engine == "openvino" or is_int8 or checkpoint.source == "compiled":
        raise UnavailableError(
            f"Openvino cannot run {checkpoint.name}: {obstacle}.",
            hint="Give --precision fp32." if is_int8 else "Give --engine torch, or leave --engine out.",
        )
    return _choose_torch(options, "cpu", f"openvino cannot run it: {obstacle}")
