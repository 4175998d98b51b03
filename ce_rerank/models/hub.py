"""The hub: what of it lies in the local cache, and how the rest is fetched.

The cache is huggingface_hub's own, read by its documented layout: `models--OWNER--NAME/refs/REVISION` holds a
commit, and `snapshots/COMMIT` its files. Reading it that way costs a few milliseconds, where the library's
functions import an HTTP client first.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UnavailableError
from .catalog import suggest_names
from .contents import find_fault, select_files

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger("ce_rerank")

_DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The first answer must come within this: a name server may hang longer than any timeout of HTTP.
_ANSWER_SECONDS = 6
_LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"

T = TypeVar("T")


class HubUnreachableError(Exception):
    """The hub cannot be reached, does not answer, or is down; `str()` is a clause that says which."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one commit in the hub's cache; some may be missing."""

    folder: Path
    commit: str


def hub_endpoint() -> str:
    """Give the hub's address: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_hub_offline() -> bool:
    """Say whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def find_snapshot(name: str, revision: str | None) -> Snapshot | None:
    """Find a model's files in the cache, for the default revision or a branch, tag or whole commit."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    commit = revision or _DEFAULT_REVISION
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (repository / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = repository / "snapshots" / commit
    return Snapshot(folder, commit) if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def list_cached_names() -> list[str]:
    """List the models in the cache, whole or not, of whatever kind."""
    try:
        folders = sorted(path.name for path in _cache().iterdir())
    except OSError:
        return []
    return [
        folder.removeprefix("models--").replace("--", "/")
        for folder in folders
        if folder.startswith("models--")
    ]


def fetch_snapshot(name: str, revision: str | None, *, allow_pickle: bool, with_code: bool) -> Snapshot:
    """Fetch what is not yet in the cache of the files that it takes to run a model, and check each.

    Raises HubUnreachableError when there is no first answer within 6 seconds, and UnavailableError when the
    answer is no, when the disk is full, or when a file arrives damaged.
    """
    with _quiet_hub():
        info = _answer_in_time(lambda: _ask_hub(name, revision))
        listed = {file.rfilename: file for file in info.siblings or ()}
        fault = find_fault(listed, None, allow_pickle=allow_pickle)
        if fault is not None:
            raise UnavailableError(f"{name} {fault.cause}.", hint=fault.hint)
        commit = str(info.sha)
        folder = _cache() / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        missing = [file for file in select_files(listed, with_code=with_code) if not (folder / file).exists()]
        _announce(name, sum(listed[file].size or 0 for file in missing))
        for file in missing:
            _fetch_file(name, file, commit)
            _check_file(name, folder / file, listed[file])
        if not _COMMIT.fullmatch(revision or _DEFAULT_REVISION):
            # Under the name of its revision, only now that all is there: it is what writes `refs`.
            _fetch_file(name, "config.json", revision or _DEFAULT_REVISION)
    return Snapshot(folder, commit)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _ask_hub(name: str, revision: str | None) -> ModelInfo:
    """Ask for a model's commit and the list of its files; every refusal becomes an error in our words."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS)
    except errors.GatedRepoError as error:
        raise _gated(name) from error
    except errors.RevisionNotFoundError as error:
        raise UnavailableError(
            f"{name} has no revision {revision!r}.",
            hint="Give a branch, a tag or a commit, or none for the newest.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _not_found(name) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(name, error.response.status_code, str(error.server_message or "")) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A proxy's login page, or another server behind HF_ENDPOINT, taken by the library for a model.
        raise HubUnreachableError("what answers there is not a hub") from error
    except Exception as error:
        # The HTTP client's own errors: which client it is depends on the library's version.
        raise HubUnreachableError(_reason(error)) from error


def _refusal(name: str, status: int, message: str) -> Exception:
    if status == 401 and "credentials" in message.lower():
        return UnavailableError(
            f"The hub refuses the access token that it was given for {name}.",
            hint="Log in again with `hf auth login`, or mend or unset HF_TOKEN.",
        )
    if status in (401, 404):
        return _not_found(name)
    if status == 403:
        return UnavailableError(
            f"The hub forbids access to {name}.",
            hint=f"Is the token one that may read it? If not, {_LOGIN_HINT}.",
        )
    if status == 429:
        return UnavailableError(
            f"The hub has had too many requests from here to give {name} now.",
            hint=f"Wait a few minutes; for a higher limit, {_LOGIN_HINT}.",
        )
    return HubUnreachableError(f"it answers with HTTP status {status}")


def _gated(name: str) -> UnavailableError:
    return UnavailableError(
        f"{name} is gated: its owner decides who may have it.",
        hint=f"Ask for access at {hub_endpoint()}/{name}, then {_LOGIN_HINT}.",
    )


def _not_found(name: str) -> UnavailableError:
    suggested = [other for other in suggest_names(name) if other.lower() != name.lower()]
    advice = f"Did you mean {' or '.join(suggested)}?" if suggested else "Check the spelling."
    return UnavailableError(
        f"There is no model {name} on {hub_endpoint()}, or it is private.",
        hint=f"{advice} For a private model, {_LOGIN_HINT}. A folder is given as ./{name}",
    )


def _announce(name: str, size: int) -> None:
    """Say what is about to be fetched; raises UnavailableError when the disk has no room for it."""
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
    except OSError as error:
        raise _unwritable(error) from error
    if free < size:
        raise _unwritable(
            OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")
        )
    if size:
        log.info("Downloading %s (%.0f MB)", name, max(1, size / 1e6), extra={"stage": True})


def _fetch_file(name: str, file: str, revision: str) -> None:
    from huggingface_hub import errors, hf_hub_download

    try:
        hf_hub_download(name, file, revision=revision)
    except errors.GatedRepoError as error:
        # Everyone may see the list of a gated model's files, and only some may have the files.
        raise _gated(name) from error
    except errors.HfHubHTTPError as error:
        raise _lost(name, file, error) from error
    except errors.LocalEntryNotFoundError as error:
        raise _lost(name, file, error.__cause__ or error) from error
    except OSError as error:
        if error.errno is None:
            raise _damaged(name, file) from error
        raise _unwritable(error) from error
    except Exception as error:
        raise _lost(name, file, error) from error


def _check_file(name: str, path: Path, listed: Any) -> None:
    """Compare a file with the hash that the hub lists for it; a damaged one is removed."""
    lfs = listed.lfs
    expected = lfs.sha256 if lfs else listed.blob_id
    if not expected:
        return
    digest = (
        hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    )
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise _damaged(name, listed.rfilename)


def _lost(name: str, file: str, error: BaseException) -> HubUnreachableError:
    return HubUnreachableError(f"{file} of {name} did not arrive: {_reason(error)}")


def _damaged(name: str, file: str) -> UnavailableError:
    return UnavailableError(
        f"{file} of {name} arrived damaged: it is not the file that the hub lists.",
        hint="Try again. Should it happen again, a proxy or HF_ENDPOINT may serve other files.",
    )


def _unwritable(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"The hub's cache {_cache()} cannot be written: {error.strerror or error}.",
        hint="Make room or mend its permissions, or name another folder with HF_HUB_CACHE.",
    )


def _reason(error: BaseException) -> str:
    """Give the first line of an error's text without its number, or its kind when it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[Errno -?\d+\] ", "", lines[0]).rstrip(".")


def _answer_in_time(call: Callable[[], T]) -> T:
    """Call in a thread of its own, which is left behind when no answer comes in time."""
    answers: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if failures:
        raise failures[0]
    if not answers:
        raise HubUnreachableError(f"no answer within {_ANSWER_SECONDS} seconds")
    return answers[0]


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings and progress bars off the terminal meanwhile."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # Where its environment variable is set, the library warns of every attempt to change it.
    switch_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    if switch_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if switch_bars:
            enable_progress_bars()
        logger.setLevel(level)
