"""Which checkpoints can be compiled, told from their configuration before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from ...models.contents import list_code, read_modules
from ...models.kind import named_activation, read_config, read_config_if_there

# As transformers names them in `model_type`; the tests convert and compare each, at several shapes.
FAMILIES = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
}


def find_obstacle(folder: Path) -> str | None:
    """Say what keeps a checkpoint from being compiled, as a clause; None when nothing in its files does."""
    config = read_config(folder / "config.json")
    library_config = read_config_if_there(folder / "config_sentence_transformers.json")
    family = str(config.get("model_type", ""))
    architecture = str((config.get("architectures") or [""])[0])
    activation = named_activation(config, library_config)
    if list_code(folder):
        return "it brings Python code of its own"
    if architecture.endswith("ForCausalLM"):
        return "it is a causal language model"
    if family not in FAMILIES:
        return f"models of the type {family!r} have not been tried"
    if len(read_modules(folder)) > 1:
        return "it has modules after the transformer"
    if activation is not None and activation not in ACTIVATIONS:
        return f"its activation is {activation}"
    if library_config.get("default_prompt_name"):
        return "it puts a prompt before its texts"
    return None
