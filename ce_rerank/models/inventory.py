"""Every model that is known or lies on this machine: what is published of it, and what of it is here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..engines.openvino.cache import COMPILED_FOLDER, DECLINED_NAME
from ..engines.openvino.manifest import read_manifest
from ..errors import UnavailableError
from ..files import read_json_object
from .catalog import MULTILINGUAL, OFFLINE_NAME, KnownModel, find_known, read_catalog, resolve_alias
from .contents import find_fault, is_cross_encoder, list_files
from .hub_cache import Snapshot, list_cached_names, list_snapshots, measure_folder, repository_folder
from .store import Checkpoint, cache_folder, offline_folder

if TYPE_CHECKING:
    from .inspection import CheckpointFacts

Order = Literal["catalog", "name", "parameters", "quality", "context", "size"]

_SCALE_OF_ACTIVATION = {"identity": "logit", "sigmoid": "sigmoid"}


@dataclass(frozen=True, slots=True)
class CachedModel:
    """What of a model lies in the hub's cache, or was made ready in ours.

    `folder` holds all of it, every revision, and takes `size_bytes`. `checkpoint` is the folder of the
    revision that is used when none is named, or None when nothing of it is whole: `fault` then says why.
    """

    name: str
    folder: Path
    size_bytes: int
    checkpoint: Path | None = None
    revision: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """What was compiled of a model, or what is left of trying: then `declined` says why it could not be."""

    folder: Path
    size_bytes: int
    name: str
    revision: str | None
    declined: str | None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model: what is known of it, from the catalog or else from its own files, and what of it is here."""

    known: KnownModel
    in_catalog: bool
    cached: CachedModel | None
    compiled: tuple[CompiledForm, ...] = ()

    @property
    def name(self) -> str:
        """The name that it is listed by."""
        return self.known.name

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return sum(part.size_bytes for part in (self.cached, *self.compiled) if part)

    @property
    def is_ready(self) -> bool:
        """Say whether it can be used without fetching anything."""
        return self.cached is not None and self.cached.checkpoint is not None

    def checkpoint(self) -> Checkpoint | None:
        """Give the checkpoint that is used when no revision is named; None when none is whole."""
        if self.cached is None or self.cached.checkpoint is None:
            return None
        source: Literal["hub", "offline"] = "offline" if self.cached.name == OFFLINE_NAME else "hub"
        return Checkpoint(self.cached.name, self.cached.checkpoint, source, self.cached.revision)

    @property
    def is_compiled(self) -> bool:
        """Say whether the revision that is here was compiled; its libraries may have changed since."""
        return self.cached is not None and any(
            form.declined is None and form.revision == self.cached.revision for form in self.compiled
        )


def list_models() -> list[ModelEntry]:
    """List the known models in the catalog's order, then the other cross-encoders in the hub's cache."""
    cached = {name.lower(): name for name in list_cached_names()}
    forms = list_compiled()
    entries = []
    for known in read_catalog():
        names = (known.name, *known.other_names)
        here = [cached.pop(name.lower(), None) for name in names]
        name = next((name for name in here if name), known.name)
        entries.append(ModelEntry(known, True, find_cached(name), _forms_of(names, forms)))
    for name in cached.values():
        found = find_cached(name)
        if found is not None and found.checkpoint is not None and is_cross_encoder(found.checkpoint):
            entry = ModelEntry(_name_only(name), False, found, _forms_of((name,), forms))
            entries.append(inspect_model(entry)[0])
    return entries


def find_model(name: str) -> ModelEntry | None:
    """Find a model by its name or alias, in the catalog or in the cache; None when it is in neither.

    Its own files are not read: that is for `inspect_model`, and a model with damaged ones can be removed.
    """
    whole = resolve_alias(name)
    known = find_known(whole)
    names = tuple(dict.fromkeys([whole, *((known.name, *known.other_names) if known else ())]))
    cached = next((found for found in map(find_cached, names) if found is not None), None)
    forms = _forms_of(names, list_compiled())
    if known is not None:
        return ModelEntry(known, True, cached, forms)
    if cached is None and not forms:
        return None
    return ModelEntry(_name_only(whole), False, cached, forms)


def inspect_model(entry: ModelEntry) -> tuple[ModelEntry, CheckpointFacts | None]:
    """Read what a model's own files say, for one that is not in the catalog all that is known of it.

    Gives None for what is not here whole. Files that cannot be read are a fault of what lies here, and stop
    nothing: one damaged model must not hide the others.
    """
    from .inspection import inspect_checkpoint

    cached = entry.cached
    if cached is None or cached.checkpoint is None:
        return entry, None
    try:
        facts = inspect_checkpoint(cached.checkpoint)
    except UnavailableError as error:
        damaged = replace(cached, checkpoint=None, fault=f"is damaged: {error.message.rstrip('.')}")
        return replace(entry, cached=damaged), None
    return (entry if entry.in_catalog else replace(entry, known=_describe(entry.name, facts))), facts


def find_cached(name: str) -> CachedModel | None:
    """Find what of a model, by its whole name, is here; None when there is nothing."""
    if name == OFFLINE_NAME:
        folder = offline_folder()
        candidates = [Snapshot(folder, "")]
    else:
        folder = repository_folder(name)
        candidates = list_snapshots(name)
    if not folder.is_dir():
        return None
    size_bytes = measure_folder(folder)
    faults = []
    for candidate in candidates:
        fault = find_fault(list_files(candidate.folder), candidate.folder, allow_pickle=True)
        if fault is None:
            return CachedModel(name, folder, size_bytes, candidate.folder, candidate.commit or None)
        faults.append(fault.cause)
    return CachedModel(name, folder, size_bytes, fault=faults[0] if faults else "has no file that is whole")


def list_compiled() -> list[CompiledForm]:
    """List what was compiled on this machine, of whatever model."""
    try:
        folders = sorted(path for path in (cache_folder() / COMPILED_FOLDER).iterdir() if path.is_dir())
    except OSError:
        return []
    forms = []
    for folder in folders:
        manifest = read_manifest(folder)
        origin: dict[str, Any] = (
            asdict(manifest.origin) if manifest else read_json_object(folder / DECLINED_NAME)
        )
        if origin.get("name"):
            forms.append(
                CompiledForm(
                    folder,
                    measure_folder(folder),
                    origin["name"],
                    origin.get("revision"),
                    origin.get("reason"),
                )
            )
    return forms


def _forms_of(names: Iterable[str], forms: Iterable[CompiledForm]) -> tuple[CompiledForm, ...]:
    wanted = {name.lower() for name in names}
    return tuple(form for form in forms if form.name.lower() in wanted)


def select_models(
    entries: Iterable[ModelEntry],
    *,
    text: str = "",
    language: str | None = None,
    cached: bool = False,
    max_parameters: int | None = None,
) -> list[ModelEntry]:
    """Select the models with a text in their name or alias that fulfil all that is asked.

    `language` is a code; a multilingual model is taken to read any. What is not known fulfils nothing.
    """
    return [
        entry
        for entry in entries
        if text.lower() in f"{entry.name} {entry.known.alias}".lower()
        and (language is None or entry.known.reads(language.lower()))
        and (not cached or entry.size_bytes)
        and (
            max_parameters is None
            or (entry.known.parameters is not None and entry.known.parameters <= max_parameters)
        )
    ]


def sort_models(entries: Iterable[ModelEntry], order: Order) -> list[ModelEntry]:
    """Sort models: names from a, parameters from the fewest, all else from the most; unknown ones last."""
    keys: dict[str, Callable[[ModelEntry], Any]] = {
        "name": lambda entry: entry.name.lower(),
        "parameters": lambda entry: entry.known.parameters or float("inf"),
        "quality": lambda entry: -(entry.known.common_quality or 0),
        "context": lambda entry: -(entry.known.context_length or 0),
        "size": lambda entry: -entry.size_bytes,
    }
    return list(entries) if order == "catalog" else sorted(entries, key=keys[order])


def _name_only(name: str) -> KnownModel:
    """Say of a model that is not in the catalog, and whose files were not read, nothing but its name."""
    return KnownModel(name, alias="", source="", languages=())


def _describe(name: str, facts: CheckpointFacts) -> KnownModel:
    """Say of a model that is not in the catalog what its own files say."""
    return KnownModel(
        name=name,
        alias="",
        source="",
        family=facts.family,
        kind="causal" if facts.architecture.endswith("ForCausalLM") else "encoder",
        parameters=facts.parameters,
        languages=tuple(
            language for language in facts.languages if re.fullmatch(f"[a-z]{{2,3}}|{MULTILINGUAL}", language)
        ),
        context_length=facts.max_length,
        licence=facts.licence,
        score_scale=_SCALE_OF_ACTIVATION.get(facts.activation),  # type: ignore[arg-type]
        needs_remote_code=bool(facts.code),
    )
