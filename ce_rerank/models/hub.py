"""The hub: read its cache on this machine, fetch models, and explain its errors.

The cache is huggingface_hub's own, and we read it by its documented layout:
`models--OWNER--NAME/refs/REVISION` holds a commit, and `snapshots/COMMIT` its files, as links to `blobs`.
That takes a few milliseconds; the library would import an HTTP client first. Only the library changes it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnavailableError
from .catalog import DEFAULT_NAME, suggest_names
from .checkpoint import Checkpoint, find_missing, select_files

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger("ce_rerank")

_ANSWER_SECONDS = 6  # for the first answer
_LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"
_TOKEN_HINT = "Log in again with `hf auth login`, or mend or unset HF_TOKEN."
_DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"

DownloadProgress = Callable[[int, int], None]
"""Called with the number of bytes that have just come, 0 at the start, and the total of all."""


class HubUnreachableError(Exception):
    """The hub cannot be reached, does not answer, or is down; `str()` is a clause that says which."""


def hub_cache_folder() -> Path:
    """Return the folder of the hub's cache: HF_HUB_CACHE, or below HF_HOME; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(name: str) -> Path:
    """Return a model's folder in the hub's cache; it may not exist."""
    return hub_cache_folder() / f"{_PREFIX}{name.replace('/', '--')}"


def find_snapshot(name: str, revision: str | None) -> Checkpoint | None:
    """Return what the cache has, whole or not, of a branch, a tag or a commit; None is the default branch."""
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
    """List the models in the cache, complete or not, of any kind."""
    folders = sorted(path.name for path in hub_cache_folder().glob(f"{_PREFIX}*"))
    return [folder.removeprefix(_PREFIX).replace("--", "/") for folder in folders]


def remove_cached(folder: Path) -> None:
    """Remove a model's folder by the library, which knows what models share. Raises OSError if that fails."""
    from huggingface_hub import scan_cache_dir

    with _quiet_hub():
        scan = scan_cache_dir()
        for repo in scan.repos:
            if repo.repo_path.name == folder.name:
                commits = [revision.commit_hash for revision in repo.revisions]
                replace(scan, repos=frozenset([repo])).delete_revisions(*commits).execute()
    if folder.exists():  # a damaged one is not in the library's list
        shutil.rmtree(folder)


def hub_endpoint() -> str:
    """Return the hub's address, HF_ENDPOINT or the public one, without a password."""
    from huggingface_hub import constants

    return _without_password(constants.ENDPOINT)


def name_ban(*, offline: bool) -> str | None:
    """Return what forbids the network: `--offline`, `HF_HUB_OFFLINE` or None."""
    from huggingface_hub import constants

    return "--offline" if offline else "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None


def check_hub(answer_seconds: float) -> None:
    """Ask the hub for a model; raise HubUnreachableError if no hub answers in time."""
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
    """Fetch the files that a model needs and the cache lacks, and check all of them.

    A file whose SHA-256 is not the one that the hub lists is fetched again. Raises HubUnreachableError if
    there is no first answer within 6 seconds, and UnavailableError if the hub refuses, the disk is full, or a
    file arrives damaged twice.
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
        files = select_files(sizes, with_code=with_code)
        size = sum(sizes[file] for file in files if not (folder / file).exists())
        bar = _count_bytes(size, on_progress if size and on_progress else lambda count, total: None)
        if size:
            log.info("Downloading %s (%.0f MB)", name, max(1, size / 1e6), extra={"stage": True})
        try:
            for _ in range(2):
                # One by one, not by `snapshot_download`, whose threads finish their files after an interrupt.
                for file in files:
                    hf_hub_download(name, file, revision=commit, tqdm_class=bar)
                found = HfApi().verify_repo_checksums(name, revision=commit).mismatches
                damaged = sorted({file["path"] for file in found} & {*files})
                if not damaged:
                    break
                for file in damaged:
                    (folder / file).resolve().unlink()
            # This writes `refs`, and so comes last: the revision is found only when it is complete.
            hf_hub_download(name, "config.json", revision=revision or _DEFAULT_REVISION, tqdm_class=bar)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise UnavailableError(
                    f"The hub's cache {hub_cache_folder()} cannot be written: {error.strerror or error}.",
                    hint="Make room or mend its permissions, or name another folder with HF_HUB_CACHE.",
                ) from error
            raise _explain(name, revision, error) from error
    if damaged:
        raise UnavailableError(
            f"{damaged[0]} of {name} arrived damaged: it is not the file that the hub lists.",
            hint="Try again. Should it happen again, a proxy or HF_ENDPOINT may serve other files.",
        )
    return Checkpoint(name, folder, "hub", commit)


def _ask_hub(name: str, revision: str | None, answer_seconds: float) -> ModelInfo:
    """Return a model's commit and the list of its files; raise HubUnreachableError if that takes too long."""
    from huggingface_hub import HfApi

    answer: Future[ModelInfo] = Future()

    def ask() -> None:
        try:
            info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=answer_seconds)
            answer.set_result(info)
        except Exception as error:
            answer.set_exception(error)

    # A name server may hang for longer than any timeout of HTTP: then this thread is left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(answer_seconds)
    except TimeoutError:
        error = TimeoutError(f"no answer within {answer_seconds:g} seconds")
        raise HubUnreachableError(_describe(error)) from None
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        # The library takes a proxy's login page, or another server, for the answer of a hub.
        raise HubUnreachableError("what answers there is not a hub") from error
    except Exception as error:
        raise _explain(name, revision, error) from error


def _count_bytes(size: int, on_progress: DownloadProgress) -> Any:
    """Return a progress bar for huggingface_hub that shows nothing and reports what arrives."""
    from huggingface_hub.utils.tqdm import tqdm

    on_progress(0, size)

    class Bar(tqdm):
        def __init__(self, **keywords: Any) -> None:
            super().__init__(**{**keywords, "disable": True})  # type: ignore[no-untyped-call]
            self.update(keywords.get("initial"))  # of a file that was cut off before

        def update(self, n: float | None = 1) -> None:
            if n:
                on_progress(int(n), size)

    return Bar


def _explain(name: str, revision: str | None, error: BaseException) -> Exception:
    """Return our error for one of huggingface_hub's."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__cause__ or error
    status, said = None, ""
    if isinstance(error, errors.HfHubHTTPError):
        status, said = error.response.status_code, str(error.server_message)
    if isinstance(error, errors.GatedRepoError):
        message = f"{name} is gated: its owner decides who may have it."
        hint = f"Ask for access at {hub_endpoint()}/{name}, then {_LOGIN_HINT}."
    elif isinstance(error, errors.RevisionNotFoundError):
        message = f"{name} has no revision {revision!r}."
        hint = "Give a branch, a tag or a commit, or none for the newest."
    elif isinstance(error, UnicodeEncodeError):
        message, hint = "The access token for the hub has characters that no token has.", _TOKEN_HINT
    elif status == 401 and "credentials" in said.lower():
        message, hint = f"The hub refuses the access token that it got for {name}.", _TOKEN_HINT
    elif status in (401, 404):
        message = f"There is no model {name} on {hub_endpoint()}, or it is private."
        suggested = " or ".join(other for other in suggest_names(name) if other.lower() != name.lower())
        advice = f"Did you mean {suggested}?" if suggested else "Check the spelling."
        hint = f"{advice} For a private model, {_LOGIN_HINT}. A folder is given as ./{name}"
    else:
        return HubUnreachableError(f"it answers with HTTP status {status}" if status else _describe(error))
    return UnavailableError(message, hint=hint)


def _describe(error: BaseException) -> str:
    """Return the first line of an error without its number, and the setting that may be wrong."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    from huggingface_hub import constants

    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"^\[Errno -?\d+\] ", "", lines[0]).rstrip(".")
    if isinstance(error, FileNotFoundError) or "CERTIFICATE" in text.upper():
        settings = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    else:
        address, proxies = urlsplit(constants.ENDPOINT), getproxies()
        is_direct = proxy_bypass(address.hostname or "")
        settings = {"the proxy": None if is_direct else proxies.get(address.scheme) or proxies.get("all")}
    named = (f"; {name} is {value}" for name, value in settings.items() if value)
    return _without_password(text + "".join(named))


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", address)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hide huggingface_hub's warnings during this block."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
