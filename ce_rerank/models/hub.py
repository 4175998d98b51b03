"""The hub: read its cache on this machine, fetch models, and explain its errors.

The cache is huggingface_hub's own, and we read it by its documented layout:
`models--OWNER--NAME/refs/REVISION` holds a commit, and `snapshots/COMMIT` its files, as links to `blobs`.
That takes a few milliseconds; the library would import an HTTP client first. Only the library changes it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from .catalog import suggest_names
from .checkpoint import Checkpoint, find_missing, select_files

log = logging.getLogger("ce_rerank")

_ANSWER_SECONDS = 6  # for the first answer
_LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"
_TOKEN_HINT = "Log in again with `hf auth login`, or mend or unset HF_TOKEN."
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"

DownloadProgress = Callable[[int, int], None]
"""Called with the number of bytes that have just come, 0 at the start, and the total of all."""


class HubUnreachableError(Exception):
    """The hub cannot be reached, is down, or must not be asked; `str()` is a clause that says why."""


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


def find_any_snapshot(name: str) -> Checkpoint | None:
    """Return what the cache has of a model's default revision or, without that, of another commit."""
    commits = sorted(path.name for path in (repository_folder(name) / "snapshots").glob("*"))
    return next(filter(None, (find_snapshot(name, commit) for commit in (None, *commits))), None)


def list_cached_names() -> list[str]:
    """List the models in the cache, complete or not, of any kind."""
    folders = sorted(path.name for path in hub_cache_folder().glob(f"{_PREFIX}*"))
    return [folder.removeprefix(_PREFIX).replace("--", "/") for folder in folders]


def remove_cached(folder: Path) -> None:
    """Remove a folder of a cache; one of the hub's by its library, which knows what models share."""
    from huggingface_hub import scan_cache_dir

    if folder.parent == hub_cache_folder():
        with _quiet_hub():
            scan = scan_cache_dir()
            for repo in scan.repos:
                if repo.repo_path.name == folder.name:
                    commits = [revision.commit_hash for revision in repo.revisions]
                    replace(scan, repos=frozenset([repo])).delete_revisions(*commits).execute()
    if folder.exists():  # a damaged one is not in the library's list
        shutil.rmtree(folder)


def fetch_snapshot(
    name: str,
    revision: str | None,
    *,
    allow_pickle: bool,
    with_code: bool,
    offline: bool,
    on_progress: DownloadProgress | None = None,
) -> Checkpoint:
    """Fetch the files that a model needs and the cache lacks, and check all of them.

    A file whose SHA-256 is not the one that the hub lists is fetched again. Raises HubUnreachableError if
    that is forbidden or there is no answer, UnavailableError if the hub refuses or a file arrives damaged
    twice, and OSError if the cache cannot be written.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    if offline or constants.HF_HUB_OFFLINE:
        raise HubUnreachableError(f"{'--offline' if offline else 'HF_HUB_OFFLINE'} forbids fetching it")
    with _quiet_hub():
        # In a thread, which is left behind: a name server may hang for longer than any timeout of HTTP.
        ask = partial(HfApi().model_info, name, revision=revision, files_metadata=True)
        try:
            asked = ThreadPoolExecutor(1).submit(ask, timeout=_ANSWER_SECONDS)
            info = asked.result(2 * _ANSWER_SECONDS)
        except Exception as error:  # the library takes a login page for an answer: a JSONDecodeError
            raise _explain(name, revision, error) from error
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
                raise  # of our disk
            raise _explain(name, revision, error) from error
    if damaged:
        raise UnavailableError(
            f"{damaged[0]} of {name} arrived damaged: it is not the file that the hub lists.",
            hint="Try again. Should it happen again, a proxy or HF_ENDPOINT may serve other files.",
        )
    return Checkpoint(name, folder, "hub", commit)


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
    from huggingface_hub import constants, errors

    hub = _without_password(constants.ENDPOINT)
    if isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__cause__ or error
    status, said = None, ""
    if isinstance(error, errors.HfHubHTTPError):
        status, said = error.response.status_code, str(error.server_message)
    if isinstance(error, errors.GatedRepoError):
        message = f"{name} is gated: its owner decides who may have it."
        hint = f"Ask for access at {hub}/{name}, then {_LOGIN_HINT}."
    elif isinstance(error, errors.RevisionNotFoundError):
        message = f"{name} has no revision {revision!r}."
        hint = "Give a branch, a tag or a commit, or none for the newest."
    elif isinstance(error, UnicodeEncodeError):
        message, hint = "The access token for the hub has characters that no token has.", _TOKEN_HINT
    elif status == 401 and "credentials" in said.lower():
        message, hint = f"The hub refuses the access token that it got for {name}.", _TOKEN_HINT
    elif status in (401, 404):
        message = f"There is no model {name} on {hub}, or it is private."
        suggested = " or ".join(suggest_names(name))
        advice = f"Did you mean {suggested}?" if suggested else "Check the spelling."
        hint = f"{advice} For a private model, {_LOGIN_HINT}. A folder is given as ./{name}"
    else:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told = re.sub(r"^\[Errno -?\d+\] ", "", lines[0]).rstrip(".")
        reason = f"it answers with HTTP status {status}" if status else told
        is_about_certificates = isinstance(error, FileNotFoundError) or "CERTIFICATE" in told.upper()
        for variable in _CERTIFICATE_VARIABLES if is_about_certificates else _PROXY_VARIABLES:
            if value := os.environ.get(variable) or os.environ.get(variable.lower()):
                reason += f"; {variable} is {value}"
        return HubUnreachableError(f"{hub} cannot be reached ({_without_password(reason)})")
    return UnavailableError(message, hint=hint)


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", address)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hide huggingface_hub's warnings during this block."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
