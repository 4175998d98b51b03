"""The hub: how what is missing of a model is fetched into the cache, and how every refusal is said."""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UnavailableError
from .catalog import DEFAULT_NAME, suggest_names
from .contents import find_fault, select_files
from .hub_cache import (
    DEFAULT_REVISION,
    Snapshot,
    hub_cache_folder,
    is_commit,
    measure_folder,
    repository_folder,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger("ce_rerank")

# The first answer must come within this: a name server may hang longer than any timeout of HTTP.
_ANSWER_SECONDS = 6
_POLL_SECONDS = 0.2
_LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"

T = TypeVar("T")
DownloadProgress = Callable[[int, int], None]
"""Is told, several times a second, how many bytes have come, and how many there are."""


class HubUnreachableError(Exception):
    """The hub cannot be reached, does not answer, or is down; `str()` is a clause that says which."""


def hub_endpoint() -> str:
    """Give the hub's address: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_hub_offline() -> bool:
    """Say whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def check_hub(answer_seconds: float) -> None:
    """Ask the hub for anything; raises HubUnreachableError when no hub answers in time."""
    with _quiet_hub(), suppress(UnavailableError):
        _answer_in_time(lambda: _ask_hub(DEFAULT_NAME, None, answer_seconds), answer_seconds)


def fetch_snapshot(
    name: str,
    revision: str | None,
    *,
    allow_pickle: bool,
    with_code: bool,
    on_progress: DownloadProgress | None = None,
) -> Snapshot:
    """Fetch what is not yet in the cache of the files that it takes to run a model, and check each.

    A fetch that was cut off is taken up by file: what is whole stays, and a file that is not starts again. So
    does a file in the cache whose size is not what the hub lists.
    Raises HubUnreachableError when there is no first answer within 6 seconds, and UnavailableError when the
    answer is no, when the disk is full, or when a file arrives damaged.
    """
    with _quiet_hub():
        info = _answer_in_time(lambda: _ask_hub(name, revision, _ANSWER_SECONDS), _ANSWER_SECONDS)
        listed = {file.rfilename: file for file in info.siblings or ()}
        fault = find_fault(listed, None, allow_pickle=allow_pickle)
        if fault is not None:
            raise UnavailableError(f"{name} {fault.cause}.", hint=fault.hint)
        commit = str(info.sha)
        folder = repository_folder(name) / "snapshots" / commit
        missing = [
            file
            for file in select_files(listed, with_code=with_code)
            if not _has_size(folder / file, listed[file].size)
        ]
        size = sum(listed[file].size or 0 for file in missing)
        _announce(name, size)
        with _report_growth(repository_folder(name), size, on_progress):
            for file in missing:
                _remove_damaged(folder / file)
                _fetch_file(name, file, commit)
                _check_file(name, folder / file, listed[file])
        if not is_commit(revision or DEFAULT_REVISION):
            # Under the name of its revision, only now that all is there: it is what writes `refs`.
            _fetch_file(name, "config.json", revision or DEFAULT_REVISION)
    return Snapshot(folder, commit)


@contextmanager
def _report_growth(folder: Path, size: int, on_progress: DownloadProgress | None) -> Iterator[None]:
    """Tell from a thread how far a download is, by what lies on the disk.

    That holds for every way in which the library fetches, and for those that it will think of.
    """
    if on_progress is None or not size:
        yield
        return
    before = measure_folder(folder)
    over = threading.Event()

    def report() -> None:
        while not over.wait(_POLL_SECONDS):
            on_progress(max(0, min(size, measure_folder(folder) - before)), size)

    on_progress(0, size)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    on_progress(size, size)


def _ask_hub(name: str, revision: str | None, answer_seconds: float) -> ModelInfo:
    """Ask for a model's commit and the list of its files; every refusal becomes an error in our words."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=answer_seconds)
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
    cache = hub_cache_folder()
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


def _has_size(path: Path, size: int | None) -> bool:
    """Say whether a file is there, with the size that the hub lists for it, where it lists one."""
    return path.exists() and size in (None, path.stat().st_size)


def _remove_damaged(path: Path) -> None:
    """Remove a file of the cache, and what it links to, which would be taken for whole where it lies."""
    try:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(error) from error


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
        _remove_damaged(path)
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
        f"The hub's cache {hub_cache_folder()} cannot be written: {error.strerror or error}.",
        hint="Make room or mend its permissions, or name another folder with HF_HUB_CACHE.",
    )


def _reason(error: BaseException) -> str:
    """Give the first line of an error's text without its number, or its kind when it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[Errno -?\d+\] ", "", lines[0]).rstrip(".")


def _answer_in_time(call: Callable[[], T], answer_seconds: float) -> T:
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
    thread.join(answer_seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise HubUnreachableError(f"no answer within {answer_seconds:g} seconds")
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
