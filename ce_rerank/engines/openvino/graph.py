"""Change an OpenVINO graph: prune its last layer to the token that the score reads; make its weights int8.

The score of a cross-encoder reads the vector of one token, but its last layer computes those of all tokens.
The other tokens are needed as keys and values of that layer's attention. Queries, the products after the
attention and everything between them are needed for one token only. The numbers that are still computed stay
the same.

Weights in 8 bits need a quarter of the memory, and the model is about twice as fast as in float32. They are
symmetric, with a scale for each output channel. Activations are quantised while the model runs, in small
groups (OpenVINO's dynamic quantisation): the error is a fifth of that with one scale for a whole tensor.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .runtime import last_line, load_runtime

Cut = dict[int, int]
"""The inputs of an operation that need one token only, each with the axis of its tokens."""

_ELEMENTWISE = {
    "Add", "Convert", "Divide", "Erf", "Gelu", "Multiply", "Power", "Relu", "Sigmoid", "Sqrt", "Subtract",
    "Swish", "Tanh",
}  # fmt: skip
# Operations that work along some axes, and the number of the input that has the axes; None: an attribute.
_WORK_ALONG = {
    "Concat": None, "MVN": 1, "ReduceMean": 1, "Slice": 4, "Softmax": None, "Split": 1, "VariadicSplit": 1,
}  # fmt: skip
_TOKEN_AXIS = 1  # of the hidden states, whose shape is (pairs, tokens, width)


def keep_pooled_token(graph: Any) -> int:
    """Let an OpenVINO graph drop the other tokens as early as possible; return how many operations need one.

    If the score reads another token, or several, the graph stays as it is, and 0 is returned.
    """
    from openvino import opset13

    operations = graph.get_ordered_ops()
    index = next((index for index in map(_pooled_index, operations) if index is not None), 0)
    cuts: dict[str, tuple[Any, Cut]] = {}
    for operation in reversed(operations):
        # The axis of tokens if all readers of an operation read only the pooled token.
        axes = {_axis_read(one, cuts) for output in operation.outputs() for one in output.get_target_inputs()}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is not None and (cut := _cut_inputs(operation, axis)):
            cuts[operation.get_name()] = operation, cut
    dropped: dict[tuple[str, int, int], Any] = {}
    for operation, cut in cuts.values():
        for place, axis in cut.items():
            source = operation.input_value(place)
            name = source.get_node().get_name()
            if name in cuts:
                continue
            key = (name, source.get_index(), axis)
            if key not in dropped:
                token, along = (opset13.constant(value, dtype="int64") for value in ([index], axis))
                dropped[key] = opset13.gather(source, token, along).output(0)
            operation.input(place).replace_source_output(dropped[key])
    graph.validate_nodes_and_infer_types()
    return len(cuts)


def _axis_read(reader: Any, cuts: Mapping[str, tuple[Any, Cut]]) -> int | None:
    """Return the axis along which an input of an operation reads the pooled token alone; else None."""
    operation, place = reader.get_node(), reader.get_index()
    if operation.get_name() in cuts:
        return cuts[operation.get_name()][1].get(place)
    return _TOKEN_AXIS if place == 0 and _pooled_index(operation) is not None else None


def _pooled_index(operation: Any) -> int | None:
    """Return the token, 0 or -1, whose vectors an operation takes out of hidden states; else None."""
    if operation.get_type_name() != "Gather" or operation.get_input_partial_shape(0).rank != 3:
        return None
    indices, axis = _constant(operation.input_value(1)), _constant(operation.input_value(2))
    return indices[0] if indices in ([0], [-1]) and axis == [_TOKEN_AXIS] else None


def _cut_inputs(operation: Any, axis: int) -> Cut:
    """Return the inputs that can be cut if the output is cut along `axis`; none if that is not safe."""
    inputs, kind = operation.input_values(), operation.get_type_name()
    rank, settings = len(operation.get_output_partial_shape(0)), operation.get_attributes()
    cut = {0: axis}
    if kind in _ELEMENTWISE:
        return _cut_broadcast(inputs, axis, rank)
    if kind == "Transpose":
        order = _constant(inputs[1])
        return {0: order[axis]} if order else {}
    if kind == "Reshape":
        # 0 means an unchanged length; lengths up to the axis of tokens must not change.
        pattern = _constant(inputs[1])
        return cut if settings["special_zero"] and pattern and not any(pattern[: axis + 1]) else {}
    if len(inputs[0].get_partial_shape()) != rank:
        return {}
    if kind in _WORK_ALONG:
        # Each place along the other axes is computed by itself.
        place = _WORK_ALONG[kind]
        along = [settings["axis"]] if place is None else [*chain(*map(_constant, inputs[place : place + 1]))]
        if not along or axis in [one % rank for one in along]:
            return {}
        return dict.fromkeys(range(len(inputs)), axis) if kind == "Concat" else cut
    if kind == "MatMul" and axis == rank - 2:
        return {} if settings["transpose_a"] else cut
    if kind == "ScaledDotProductAttention" and axis == rank - 2:
        # The query, and the mask if it has a row for each token of the query.
        mask = _cut_broadcast(inputs[3:4], axis, rank)
        return cut | {place + 3: along for place, along in mask.items()}
    return {}


def _cut_broadcast(inputs: Iterable[Any], axis: int, rank: int) -> Cut:
    """Cut inputs that are broadcast to `rank` dimensions, except those that have one value for all tokens."""
    shapes = [value.get_partial_shape() for value in inputs]
    own_axes = [axis - (rank - len(shape)) for shape in shapes]
    return {
        place: own
        for place, (own, shape) in enumerate(zip(own_axes, shapes, strict=True))
        if own >= 0 and shape[own] != 1
    }


def _constant(value: Any) -> list[int]:
    """Return the numbers of a constant; none for a value that is computed."""
    node = value.get_node()
    return node.get_data().reshape(-1).tolist() if node.get_type_name() == "Constant" else []


def write_int8_graph(full: Path, path: Path) -> None:
    """Write a graph again with int8 constants and their scales in place of its matrices.

    The matrices are the second inputs of matrix products, and the tables of embeddings.
    """
    graph = load_runtime().Core().read_model(full)
    from openvino import opset13

    for operation in graph.get_ordered_ops():
        kind = operation.get_type_name()
        place = {"MatMul": 1, "Gather": 0}.get(kind)
        if place is None:
            continue
        constant = operation.input_value(place).get_node()
        if constant.get_type_name() != "Constant":
            continue
        weights = constant.get_data()
        if weights.dtype != np.float32 or weights.ndim != 2:
            continue
        # A matrix has a scale for each output channel, a table for each token.
        is_column = kind == "MatMul" and not operation.get_attributes()["transpose_b"]
        largest = np.abs(weights).max(axis=0 if is_column else 1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        narrow = opset13.constant(np.round(weights / scale).astype(np.int8))
        wide = opset13.multiply(opset13.convert(narrow, "f32"), opset13.constant(scale))
        operation.input(place).replace_source_output(wide.output(0))
    save_graph(graph, path)


def save_graph(graph: Any, path: Path) -> None:
    """Write a graph with constants as they are. Raises OSError if that fails."""
    try:
        load_runtime().save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:  # OpenVINO's, for every reason
        raise OSError(errno.EIO, last_line(error), str(path)) from error
