"""The hub: its cache, what is fetched from it, and every way in which it can say no or nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import CROSS_ENCODER_FILES, LocalHub, Resolver

NAME = "owner/reranker"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@pytest.fixture
def resolve_at(hub: LocalHub, resolve: Resolver) -> Resolver:
    """Resolve names with the local hub."""
    resolve.environment["HF_ENDPOINT"] = hub.url
    return resolve


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on loopback that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def snapshot_names(answer: dict[str, str]) -> list[str]:
    folder = Path(answer["folder"])
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestFetching:
    def test_takes_what_is_needed_and_tells_how_much_has_come(
        self, hub: LocalHub, resolve_at: Resolver
    ) -> None:
        extra = {"onnx/model.onnx": b"x", "pytorch_model.bin": b"x", "modeling.py": b"x", "weights.pkl": b"x"}
        model = hub.add(NAME, CROSS_ENCODER_FILES | extra)
        answer = resolve_at(NAME, report=True)
        assert (answer["source"], answer["revision"]) == ("hub", model.commit)
        assert answer["stages"] == ["Downloading owner/reranker (1 MB)"]
        assert snapshot_names(answer) == sorted(CROSS_ENCODER_FILES)
        size = sum(map(len, CROSS_ENCODER_FILES.values()))
        progress = answer.pop("progress")
        assert (progress[0], sum(count for count, _ in progress)) == ([0, size], size)
        hub.requests.clear()
        assert resolve_at(NAME, report=True) == {**answer, "stages": []}
        assert hub.requests == []
        resolve_at.environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
        assert resolve_at(NAME, offline=True)["folder"] == answer["folder"]

    def test_asks_for_what_is_new_where_that_is_wanted(self, hub: LocalHub, resolve_at: Resolver) -> None:
        first = hub.add(NAME)
        resolve_at(NAME)
        newer = hub.add(NAME, CROSS_ENCODER_FILES | {"README.md": b"# Newer\n"})
        assert resolve_at(NAME)["revision"] == first.commit
        assert resolve_at(NAME, refresh=True)["revision"] == newer.commit
        hub.status = 503  # what is here is kept
        assert resolve_at(NAME, refresh=True)["revision"] == newer.commit
        assert resolve_at(NAME, offline=True)["revision"] == newer.commit

    def test_is_taken_up_where_it_was_cut_off(self, hub: LocalHub, resolve_at: Resolver) -> None:
        hub.add(NAME)
        folder = Path(resolve_at(NAME)["folder"])
        (folder / "model.safetensors").resolve().unlink()
        hub.requests.clear()
        assert resolve_at(NAME, offline=True)["message"] == (
            f"{NAME}, as it is in the cache, has no model.safetensors, and --offline forbids fetching it."
        )
        answer = resolve_at(NAME)
        assert answer["folder"] == str(folder)
        assert sorted({request for request in hub.requests if request.startswith("GET /owner")}) == [
            f"GET /owner/reranker/resolve/{answer['revision']}/model.safetensors"
        ]

    def test_takes_the_revision_that_was_asked_for(self, hub: LocalHub, resolve_at: Resolver) -> None:
        model = hub.add(NAME, revisions=("main", "v1.0"))
        by_tag = resolve_at(NAME, revision="v1.0")
        hub.requests.clear()
        assert by_tag["revision"] == model.commit
        assert resolve_at(NAME, revision=model.commit) == {**by_tag, "stages": []}
        assert hub.requests == []

    def test_takes_code_only_where_it_is_trusted(self, hub: LocalHub, resolve_at: Resolver) -> None:
        config = json.loads(CROSS_ENCODER_FILES["config.json"]) | {"auto_map": {"AutoModel": "modeling.X"}}
        files = {"config.json": json.dumps(config).encode(), "modeling.py": b"x = 1\n"}
        hub.add(NAME, CROSS_ENCODER_FILES | files)
        assert "modeling.py" not in snapshot_names(resolve_at(NAME))
        assert "modeling.py" in snapshot_names(resolve_at(NAME, trust_remote_code=True))

    def test_of_pickled_weights_needs_permission(self, hub: LocalHub, resolve_at: Resolver) -> None:
        files = {
            "pytorch_model.bin": b"x",
            "config.json": CROSS_ENCODER_FILES["config.json"],
            "vocab.txt": b"a\n",
        }
        hub.add(NAME, files)
        assert resolve_at(NAME)["hint"].startswith("Give --allow-pickle if you trust who made them")
        assert [request for request in hub.requests if "resolve" in request] == []
        assert snapshot_names(resolve_at(NAME, allow_pickle=True)) == sorted(files)

    def test_of_a_damaged_file_is_refused_and_mended_by_the_next(
        self, hub: LocalHub, resolve_at: Resolver
    ) -> None:
        file = "model.safetensors"
        model = hub.add(NAME, damaged=(file,))
        answer = resolve_at(NAME)
        assert answer["message"] == (
            f"{file} of owner/reranker arrived damaged: it is not the file that the hub lists."
        )
        model.damaged = ()
        folder = Path(resolve_at(NAME)["folder"])
        assert (folder / file).read_bytes() == CROSS_ENCODER_FILES[file]


class TestRefusal:
    def test_of_a_private_model_ends_with_a_token(self, hub: LocalHub, resolve_at: Resolver) -> None:
        model = hub.add(NAME, token="hf_secret")
        assert resolve_at(NAME)["message"] == f"There is no model {NAME} on {hub.url}, or it is private."
        resolve_at.environment["HF_TOKEN"] = "hf_secret"
        assert resolve_at(NAME)["revision"] == model.commit
        assert resolve_at(NAME, revision="v9")["message"] == f"{NAME} has no revision 'v9'."

    def test_of_a_gated_model_says_where_to_ask(self, hub: LocalHub, resolve_at: Resolver) -> None:
        hub.add(NAME, token="hf_secret", is_gated=True)
        answer = resolve_at(NAME)
        assert answer["message"] == f"{NAME} is gated: its owner decides who may have it."
        assert answer["hint"] == f"Ask for access at {hub.url}/{NAME}, then {LOGIN}."

    def test_of_a_name_that_is_not_there(self, hub: LocalHub, resolve_at: Resolver) -> None:
        assert "Did you mean BAAI/bge-reranker-v2-m3 or" in resolve_at("BAAI/bge-reranker-v2-m4")["hint"]
        answer = resolve_at("owner/nothing")
        assert (answer["kind"], answer["message"], answer["hint"]) == (
            "UnavailableError",
            f"There is no model owner/nothing on {hub.url}, or it is private.",
            f"Check the spelling. For a private model, {LOGIN}. A folder is given as ./owner/nothing",
        )

    def test_of_everything_names_what_is_at_fault(self, hub: LocalHub, resolve_at: Resolver) -> None:
        hub.status, hub.headers = 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        assert resolve_at(NAME)["message"] == f"The hub refuses the access token that it got for {NAME}."
        beginning = f"{NAME} is not in the cache, and {hub.url} cannot be reached"
        hub.status = 503
        assert resolve_at(NAME)["message"] == f"{beginning} (it answers with HTTP status 503)."


class TestUnreachable:
    def test_a_proxy_that_stands_before_it_is_named_without_its_password(self, resolve: Resolver) -> None:
        proxy = {"HTTP_PROXY": "http://user:secret@127.0.0.1:9", "NO_PROXY": ""}
        variables = {name: "" for name in resolve.environment if name.lower().endswith("_proxy")}
        resolve.environment |= {**variables, **proxy, "HF_ENDPOINT": "http://hub.invalid"}
        assert "(Connection refused; HTTP_PROXY is http://***@127.0.0.1:9)" in resolve(NAME)["message"]

    def test_a_file_of_certificates_that_cannot_be_used_is_named(
        self, resolve: Resolver, tmp_path: Path
    ) -> None:
        certificates = tmp_path / "ca.pem"
        resolve.environment |= {"SSL_CERT_FILE": str(certificates), "HF_ENDPOINT": "https://127.0.0.1:9"}
        assert f"; SSL_CERT_FILE is {certificates}" in resolve(NAME)["message"]

    def test_a_token_of_odd_characters_is_not_shown(self, hub: LocalHub, resolve_at: Resolver) -> None:
        resolve_at.environment["HF_TOKEN"] = "hf_sécret"
        answer = resolve_at(NAME)
        assert answer["message"] == "The access token for the hub has characters that no token has."
        assert "cret" not in answer["hint"]

    def test_a_password_in_the_address_is_not_shown(self, resolve: Resolver) -> None:
        resolve.environment["HF_ENDPOINT"] = "http://user:secret@127.0.0.1:9"
        answer = resolve(NAME)
        assert answer["message"] == (
            f"{NAME} is not in the cache, and http://***@127.0.0.1:9 cannot be reached (Connection refused)."
        )
        assert answer["hint"].startswith("What works without it: the path of a folder, ")

    @pytest.mark.slow
    def test_hub_that_never_answers_is_given_up(self, resolve: Resolver, silent_port: int) -> None:
        resolve.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{silent_port}"
        assert resolve(NAME)["message"].endswith("cannot be reached (timed out).")

    def test_hub_is_not_asked_when_that_is_forbidden(self, hub: LocalHub, resolve_at: Resolver) -> None:
        hub.add(NAME)
        answer = resolve_at(NAME, offline=True)
        assert answer["message"] == f"{NAME} is not in the cache, and --offline forbids fetching it."
        resolve_at.environment["HF_HUB_OFFLINE"] = "1"
        assert "and HF_HUB_OFFLINE forbids" in resolve_at(NAME)["message"]
        assert hub.requests == []


def test_a_cached_model_is_found_without_an_http_client(hub: LocalHub, resolve_at: Resolver) -> None:
    hub.add(NAME)
    resolve_at(NAME)
    code = (
        f"import sys; from ce_rerank.models.store import resolve_checkpoint; resolve_checkpoint({NAME!r})\n"
        "slow = ('numpy', 'torch', 'transformers', 'httpx', 'httpx2', 'huggingface_hub.hf_api', 'asyncio')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], env=resolve_at.environment, text=True)
    assert output == "[]\n"
