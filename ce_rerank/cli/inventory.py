"""Models: what is known about each, and which checkpoints and compiled forms are on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..engines.openvino.cache import CompiledForm, digest_place, list_compiled
from ..errors import UnavailableError
from ..files import measure_folder
from ..models import hub
from ..models.catalog import OFFLINE_NAME, KnownModel, find_known, read_catalog, resolve_alias, suggest_names
from ..models.checkpoint import Checkpoint, Fault
from ..models.store import find_folder, is_path, offline_checkpoint


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model: what the catalog or its files say about it, and its files on this machine.

    `folder` holds all revisions that are here, and takes `folder_bytes` on the disk. `checkpoint` is what is
    used if no revision is named; it is None if there are no files here. `fault` is why it cannot be used.
    `forms` are its compiled forms.
    """

    known: KnownModel
    in_catalog: bool
    forms: tuple[CompiledForm, ...]
    folder: Path | None = None
    folder_bytes: int = 0
    checkpoint: Checkpoint | None = None
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """The name in the list."""
        return self.known.name

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return self.folder_bytes + sum(form.size_bytes for form in self.forms)

    @property
    def is_ready(self) -> bool:
        """Whether it can be used without fetching anything."""
        return self.checkpoint is not None and self.fault is None

    @property
    def is_compiled(self) -> bool:
        """Whether the revision that is here was compiled; its libraries may have changed since."""
        return self.checkpoint is not None and any(
            form.declined is None and form.revision == self.checkpoint.revision for form in self.forms
        )

    @property
    def removable(self) -> list[tuple[str, Path, int]]:
        """What of it is in a cache: a description, the folder, and the size in bytes of each part."""
        found = [("compiled form", form.folder, form.size_bytes) for form in self.forms]
        is_own = self.checkpoint is not None and self.checkpoint.source in ("folder", "compiled")
        if self.folder is not None and not is_own:
            found.insert(0, ("checkpoint", self.folder, self.folder_bytes))
        return found

    def remove(self) -> None:
        """Remove everything `removable`. Raises OSError if something cannot be removed."""
        for _, folder, _ in self.removable:
            if folder.parent == hub.hub_cache_folder():
                hub.remove_cached(folder)
            else:
                shutil.rmtree(folder)


def list_models() -> list[ListedModel]:
    """List the known models in the catalog's order, then the other cross-encoders in the hub's cache."""
    cached = {name.lower(): name for name in hub.list_cached_names()}
    forms = list_compiled()
    listed = []
    for known in read_catalog():
        here = [cached.pop(name.lower(), None) for name in (known.name, *known.other_names)]
        listed.append(_look_up(next(filter(None, here), known.name), known, forms))
    others = (_look_up(name, None, forms) for name in cached.values())
    return listed + [other for other in others if other.checkpoint and other.checkpoint.declares_reranker]


def find_model(name: str) -> ListedModel:
    """Find a model by its name or alias, in the catalog or a cache, or by its folder.

    Raises UnavailableError, with the nearest names, when nothing is known of it.
    """
    whole, forms = resolve_alias(name), list_compiled()
    known = find_known(whole)
    if known is None and is_path(whole):
        found = find_folder(whole)
        return _look_up(name, None, forms, found)
    names = dict.fromkeys([whole, *((known.name, *known.other_names) if known else ())])
    models = [_look_up(one, known, forms) for one in names]
    model = next((one for one in models if one.folder), models[0])
    # There may be a compiled form without a checkpoint.
    if known is None and model.folder is None and not model.forms:
        suggested = " or ".join(suggest_names(name, hub.list_cached_names()))
        raise UnavailableError(
            f"{name} is not in the catalog, and nothing of it is on this machine.",
            hint=f"Did you mean {suggested}?" if suggested else "`ce-rerank models` lists what is.",
        )
    return model


def _look_up(
    name: str, known: KnownModel | None, forms: list[CompiledForm], own: Checkpoint | None = None
) -> ListedModel:
    """Find what is here of a model, by its whole name, or what its `own` folder holds.

    Of the revisions in the hub's cache, the first without a fault is used.
    """
    if name == OFFLINE_NAME:
        own = offline_checkpoint()
    candidates = [own] if own else hub.list_snapshots(name)
    folder = own.folder if own else hub.repository_folder(name)
    published = known or KnownModel(name, languages=())
    names = {one.lower() for one in (name, published.name, *published.other_names)}
    if own is not None and own.source in ("folder", "compiled"):
        place = digest_place(own)
        own_forms = tuple(form for form in forms if form.place == place)
    else:
        own_forms = tuple(form for form in forms if form.name.lower() in names and not form.is_of_folder)
    if not folder.is_dir():
        return ListedModel(published, known is not None, own_forms)
    faults = [candidate.find_fault(allow_pickle=True) for candidate in candidates]
    chosen = faults.index(None) if None in faults else 0
    checkpoint = candidates[chosen] if candidates else None
    fault = faults[chosen] if faults else Fault("has no file that is whole")
    if known is None and checkpoint is not None and fault is None:
        published = _describe_files(checkpoint)
    size = measure_folder(folder)
    return ListedModel(published, known is not None, own_forms, folder, size, checkpoint, fault)


def _describe_files(checkpoint: Checkpoint) -> KnownModel:
    """Return what a checkpoint's own files say about a model that is not in the catalog."""
    scales = {"identity": "logit", "sigmoid": "sigmoid"}
    return KnownModel(
        name=checkpoint.name,
        family=checkpoint.family or None,
        kind="causal" if checkpoint.is_causal else "encoder",
        parameters=checkpoint.parameters,
        languages=checkpoint.languages,
        context_length=checkpoint.max_length,
        licence=checkpoint.licence,
        score_scale=scales.get(checkpoint.activation),  # type: ignore[arg-type]
        needs_remote_code=bool(checkpoint.code),
    )
