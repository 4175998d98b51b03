"""The hub: its cache on this machine, how what is missing of a model is fetched, and what its refusals mean.

The cache is huggingface_hub's own, read by its documented layout: `models--OWNER--NAME/refs/REVISION` holds a
commit, and `snapshots/COMMIT` its files, as links to `blobs`. Reading it that way costs a few milliseconds,
where the library's functions import an HTTP client first. What changes the cache is left to the library.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnavailableError
from .catalog import DEFAULT_NAME, suggest_names
from .checkpoint import Checkpoint, find_missing, select_files

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger("ce_rerank")

# The first answer must come within this: a name server may hang longer than any timeout of HTTP.
_ANSWER_SECONDS = 6
_POLL_SECONDS = 0.2
_LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"
_TOKEN_HINT = "Log in again with `hf auth login`, or mend or unset HF_TOKEN."
_DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"

DownloadProgress = Callable[[int, int], None]
"""Is told, several times a second, how many bytes have come, and how many there are."""


class HubUnreachableError(Exception):
    """The hub cannot be reached, does not answer, or is down; `str()` is a clause that says which."""


def hub_cache_folder() -> Path:
    """Return the folder of the hub's cache: HF_HUB_CACHE, or below HF_HOME; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(name: str) -> Path:
    """Return the folder of the hub's cache that holds all of a model; it may not exist."""
    return hub_cache_folder() / f"{_PREFIX}{name.replace('/', '--')}"


def find_snapshot(name: str, revision: str | None) -> Checkpoint | None:
    """Find a model's files in the cache, for the default revision or a branch, tag or whole commit.

    Some of its files may be missing.
    """
    repository = repository_folder(name)
    commit = revision or _DEFAULT_REVISION
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (repository / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = repository / "snapshots" / commit
    return Checkpoint(name, folder, "hub", commit) if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def list_snapshots(name: str) -> list[Checkpoint]:
    """List what the cache has of a model: the default revision first, then other commits."""
    commits = sorted(path.name for path in (repository_folder(name) / "snapshots").glob("*"))
    found = (find_snapshot(name, commit) for commit in (_DEFAULT_REVISION, *commits))
    return list(dict.fromkeys(snapshot for snapshot in found if snapshot is not None))


def list_cached_names() -> list[str]:
    """List the models in the cache, whole or not, of whatever kind."""
    folders = sorted(path.name for path in hub_cache_folder().glob(f"{_PREFIX}*"))
    return [folder.removeprefix(_PREFIX).replace("--", "/") for folder in folders]


def measure_folder(folder: Path) -> int:
    """Add up the bytes of the files below a folder, each once, those that it links to too."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.stat(os.path.join(parent, name))  # noqa: PTH116, PTH118
                if stat.S_ISREG(found.st_mode):
                    sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def remove_cached(folder: Path) -> None:
    """Remove a model's folder of the cache. Raises OSError for what cannot be removed.

    Through the library, which knows what models share with each other.
    """
    from huggingface_hub import scan_cache_dir

    if folder.is_symlink():
        raise OSError(errno.ELOOP, f"it is a link to {folder.resolve()}")
    with _quiet_hub():
        scan = scan_cache_dir()
        own = frozenset(repo for repo in scan.repos if repo.repo_path.name == folder.name)
        commits = [revision.commit_hash for repo in own for revision in repo.revisions]
        replace(scan, repos=own).delete_revisions(*commits).execute()
    # A damaged one is not in the library's list.
    if folder.exists():
        shutil.rmtree(folder)


def hub_endpoint() -> str:
    """Return the hub's address, HF_ENDPOINT or the public one, as it may be shown: without a password."""
    from huggingface_hub import constants

    return _without_password(constants.ENDPOINT)


def is_hub_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def check_hub(answer_seconds: float) -> None:
    """Ask the hub for anything; raise HubUnreachableError when no hub answers in time."""
    with _quiet_hub(), suppress(UnavailableError):
        _ask_hub(DEFAULT_NAME, None, answer_seconds)


def fetch_snapshot(
    name: str,
    revision: str | None,
    *,
    allow_pickle: bool,
    with_code: bool,
    on_progress: DownloadProgress | None = None,
) -> Checkpoint:
    """Fetch what is not yet in the cache of the files that it takes to run a model, and check them all.

    A file that is not what the hub lists, by its SHA-256, is fetched again. Raises HubUnreachableError when
    there is no first answer within 6 seconds, and UnavailableError when the answer is no, when the disk is
    full, or when a file arrives damaged twice.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with _quiet_hub():
        info = _ask_hub(name, revision, _ANSWER_SECONDS)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        fault = find_missing(sizes, allow_pickle=allow_pickle)
        if fault is not None:
            raise fault.as_error(name)
        commit = str(info.sha)
        folder = repository_folder(name) / "snapshots" / commit
        # One by one, not by `snapshot_download`, whose threads finish their files after an interrupt.
        files = select_files(sizes, with_code=with_code)
        size = sum(sizes[file] for file in files if not (folder / file).exists())
        if size:
            log.info("Downloading %s (%.0f MB)", name, max(1, size / 1e6), extra={"stage": True})
        try:
            with _report_growth(repository_folder(name), size, on_progress):
                for _ in range(2):
                    for file in files:
                        hf_hub_download(name, file, revision=commit)
                    found = HfApi().verify_repo_checksums(name, revision=commit).mismatches
                    damaged = sorted({file["path"] for file in found} & {*files})
                    if not damaged:
                        break
                    for file in damaged:
                        (folder / file).resolve().unlink()
            # Under the name of its revision, only now that all of it is there: this writes `refs`.
            hf_hub_download(name, "config.json", revision=revision or _DEFAULT_REVISION)
        except Exception as error:
            raise _explain(name, revision, error) from error
    if damaged:
        raise UnavailableError(
            f"{damaged[0]} of {name} arrived damaged: it is not the file that the hub lists.",
            hint="Try again. Should it happen again, a proxy or HF_ENDPOINT may serve other files.",
        )
    return Checkpoint(name, folder, "hub", commit)


def _ask_hub(name: str, revision: str | None, answer_seconds: float) -> ModelInfo:
    """Ask for a model's commit and the list of its files, in a thread that is left behind when it is late."""
    from huggingface_hub import HfApi

    answers: list[ModelInfo] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=answer_seconds)
            answers.append(info)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(answer_seconds)
    if failures:
        (error,) = failures
        if isinstance(error, AttributeError | KeyError | TypeError | json.JSONDecodeError):
            # A proxy's login page, or another server behind HF_ENDPOINT, taken by the library for a model.
            raise HubUnreachableError("what answers there is not a hub") from error
        raise _explain(name, revision, error, is_first=True) from error
    if not answers:
        raise HubUnreachableError(f"no answer within {answer_seconds:g} seconds{_name_proxy()}")
    return answers[0]


@contextmanager
def _report_growth(folder: Path, size: int, on_progress: DownloadProgress | None) -> Iterator[None]:
    """Report from a thread how much has arrived on the disk, in whatever way the library fetches it."""
    if on_progress is None or not size:
        yield
        return
    before = measure_folder(folder)
    over = threading.Event()

    def report() -> None:
        done = 0
        while not over.wait(_POLL_SECONDS):
            done = max(done, min(size, measure_folder(folder) - before))
            on_progress(done, size)

    on_progress(0, size)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    on_progress(size, size)


def _explain(name: str, revision: str | None, error: Exception, *, is_first: bool = False) -> Exception:
    """Return what an error of huggingface_hub means, in our words; `is_first` before anything is written."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return UnavailableError(
            f"{name} is gated: its owner decides who may have it.",
            hint=f"Ask for access at {hub_endpoint()}/{name}, then {_LOGIN_HINT}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        hint = "Give a branch, a tag or a commit, or none for the newest."
        return UnavailableError(f"{name} has no revision {revision!r}.", hint=hint)
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(name, error.response.status_code, str(error.server_message or ""))
    if isinstance(error, UnicodeEncodeError):
        message = "The access token for the hub has characters that no token has."
        return UnavailableError(message, hint=_TOKEN_HINT)
    if isinstance(error, OSError) and error.errno is not None and not is_first:
        return UnavailableError(
            f"The hub's cache {hub_cache_folder()} cannot be written: {error.strerror or error}.",
            hint="Make room or mend its permissions, or name another folder with HF_HUB_CACHE.",
        )
    return HubUnreachableError(_reason(error))


def _explain_status(name: str, status: int, message: str) -> Exception:
    """Return what a status of HTTP means, where the hub names no kind of error."""
    if status == 401 and "credentials" in message.lower():
        return UnavailableError(
            f"The hub refuses the access token that it got for {name}.",
            hint=_TOKEN_HINT,
        )
    if status in (401, 404):
        suggested = " or ".join(other for other in suggest_names(name) if other.lower() != name.lower())
        advice = f"Did you mean {suggested}?" if suggested else "Check the spelling."
        return UnavailableError(
            f"There is no model {name} on {hub_endpoint()}, or it is private.",
            hint=f"{advice} For a private model, {_LOGIN_HINT}. A folder is given as ./{name}",
        )
    return HubUnreachableError(f"it answers with HTTP status {status}")


def _reason(error: Exception) -> str:
    """Return the first line of an error's text without its number, and the setting that may be at fault."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = _without_password(re.sub(r"^\[Errno -?\d+\] ", "", lines[0]).rstrip("."))
    if isinstance(error, FileNotFoundError) or "CERTIFICATE" in text.upper():
        named = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        return "; ".join([text, *(f"{name} is {path}" for name, path in named.items() if path)])
    return text + _name_proxy()


def _name_proxy() -> str:
    """Return a clause that names the proxy which stands before the hub; empty where there is none."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    from huggingface_hub import constants

    address, proxies = urlsplit(constants.ENDPOINT), getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(address.hostname or ""):
        return ""
    return f"; the proxy is {_without_password(proxy)}"


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", address)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings and progress bars off the terminal meanwhile."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        disable_progress_bars()
        try:
            yield
        finally:
            if had_bars:
                enable_progress_bars()
            logger.setLevel(level)
