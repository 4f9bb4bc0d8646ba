"""mlx_lm's OpenAI-compatible server with other caches plugged in. Its code stays untouched: caches are what differs."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from swarm.experiments.deploy import batching, rates
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import SwarmError
from swarm.kernels.model_cache import packed_layers

if TYPE_CHECKING:
    from swarm.experiments.deploy.recipe import Recipe
    from swarm.experiments.models.base import LoadedModel

MAX_PROMPT_CACHES = 10
PREFILL_STEP = 512


class ServingError(SwarmError):
    """The server cannot be started."""


def plug_in(model: Any, template: Sequence[Any]) -> None:
    """Let an mlx-lm model make caches like these empty ones whenever somebody asks it for its caches."""
    model.make_cache = lambda: copy.deepcopy(list(template))


def prompt_caches(model: Any, size: int = MAX_PROMPT_CACHES) -> Any:
    """mlx_lm's store of caches that later requests begin with, for a model whose caches were plugged in.

    A request that parts from an earlier one in its answer wants the last tokens taken back. Packed caches that cannot
    do that exactly are kept twice, as they were before the answer and behind it, on shared memory: what a request is
    given is always what a new cache of the same tokens would hold. Where a layer keeps a cache of mlx-lm's own that
    cannot take tokens back, a request begins with an earlier one only if it goes on from all of it.
    """
    from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

    class PromptCaches(LRUPromptCache):  # type: ignore[misc]
        def fetch_nearest_cache(self, key: Any, tokens: list[int]) -> tuple[list[Any], list[int]]:
            caches, rest = super().fetch_nearest_cache(key, tokens)
            if caches and not rest:  # all is remembered, and an answer begins with a token that is computed
                if can_trim_prompt_cache(caches):
                    trim_prompt_cache(caches, 1)
                    rest = tokens[-1:]
                else:
                    caches, rest = None, tokens
            caches = caches or model.make_cache()
            for cache in packed_layers(caches):
                cache.keep_state_at(len(tokens) - 1)  # the last token begins the answer
            return caches, rest

        def insert_cache(self, key: Any, tokens: list[int], caches: list[Any], **options: Any) -> None:
            packed = [cache for cache in caches if isinstance(cache, PackedKVCache)]
            if not can_trim_prompt_cache(caches) and len(packed) == len(caches):
                kept = [state for cache in packed if (state := cache.kept_state()) is not None]
                if len(kept) == len(caches):
                    super().insert_cache(key, tokens[: kept[0].offset], kept, **options)
            super().insert_cache(key, tokens, caches, **options)

    return PromptCaches(size)


def serve(
    loaded: LoadedModel,
    recipe: Recipe | None,
    host: str,
    port: int,
    ready: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
    *,
    compare: bool = False,
) -> None:
    """Serve a model until interrupted.

    Args:
        loaded: the model.
        recipe: what its cache stores; None leaves mlx-lm's own cache.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        ready: told the URL when the server listens.
        say: told in words how fast requests are answered, and what cannot be done.
        compare: time decode steps beside 16 bit before the first request.

    Raises:
        ServingError: the address cannot be used.
        SpecError, ModelError: the recipe does not fit the model.
    """
    from mlx_lm import server

    reused, beside = server.LRUPromptCache(MAX_PROMPT_CACHES), None
    template = [] if recipe is None else recipe.apply(loaded.model)
    httpd = _bind(host, port)
    if recipe is not None:
        if compare:
            beside = rates.decode_times(loaded, lambda: copy.deepcopy(template))
            for line in beside.lines(recipe.kv.label):
                say(line)
        plug_in(loaded.model, template)
        reused = prompt_caches(loaded.model)
    limits = batching.limits(loaded.model)
    if limits.reason:
        what = "Requests are answered" if limits.answers == 1 else "Prompts are read"
        say(f"{what} one at a time: {limits.reason}.")
    answers = _answers(server, _provider(server, loaded, limits), reused, beside, say)
    httpd.RequestHandlerClass = _handler(server, loaded.info.name, answers)
    shown = f"[{host}]" if ":" in host else host
    try:
        ready(f"http://{shown}:{httpd.server_port}/v1")
        httpd.serve_forever()
    finally:
        httpd.server_close()
        answers.stop_and_join()


def _answers(
    server: Any, provider: Any, reused: Any, beside: rates.DecodeTimes | None, say: Callable[[str], None]
) -> Any:
    """mlx_lm's thread that answers requests; every request is timed, and said when it ends."""

    class TimedAnswers(server.ResponseGenerator):  # type: ignore[misc]
        of_this_thread = threading.local()

        def generate(self, *request: Any, **options: Any) -> tuple[Any, Any]:
            times = rates.RequestTimes()
            times.context, answer = super().generate(*request, **options)
            self.of_this_thread.times = times
            return times.context, times.over(answer, lambda ended: say(ended.line(beside)))

        def timings(self) -> dict[str, Any]:
            """Of the request that this thread is answering."""
            timings: dict[str, Any] = self.of_this_thread.times.timings(beside)
            return timings

    return TimedAnswers(provider, reused)


def _bind(host: str, port: int) -> ThreadingHTTPServer:
    import socket
    from http.server import BaseHTTPRequestHandler

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A client that leaves early is no error of the server.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    try:
        return Server((host, port), BaseHTTPRequestHandler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServingError(f"cannot listen on {host}:{port}: {reason}.", "Give another --host or --port.") from error


def _handler(server: Any, model: str, answers: Any) -> Any:
    """mlx_lm's request handler; models are listed from what is served here, not from the Hugging Face cache."""
    signature = server.get_system_fingerprint()

    class ServeHandler(server.APIHandler):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(answers, *args, system_fingerprint=signature)

        def handle_models_request(self) -> None:
            listed = {"id": model, "object": "model", "created": self.created, "owned_by": "kv-swarm"}
            self._set_completion_headers(200)
            self.end_headers()
            self.wfile.write(json.dumps({"object": "list", "data": [listed]}).encode())

        def generate_response(self, text: str, finish_reason: str | None, *counts: Any, **details: Any) -> Any:
            reply = super().generate_response(text, finish_reason, *counts, **details)
            return reply if finish_reason is None else {**reply, "timings": answers.timings()}

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            logging.debug(format, *args)

    return ServeHandler


def _provider(server: Any, loaded: LoadedModel, limits: batching.Limits) -> Any:
    """What mlx_lm's server asks for models: there is one, it is loaded, and no other is fetched."""

    class OneModel(server.ModelProvider):  # type: ignore[misc]
        def _load(self, model_path: Any, adapter_path: Any = None, draft_model_path: Any = None) -> None:
            if adapter_path is not None or draft_model_path is not None:
                raise ValueError("this server takes neither adapters nor draft models")
            self.model_key = (model_path, None, None)
            self.model, self.tokenizer = loaded.model, loaded.tokenizer
            self.is_batchable = limits.answers > 1

        def load(self, model_path: Any, adapter_path: Any = None, draft_model_path: Any = None) -> Any:
            if model_path not in ("default_model", loaded.info.name):
                raise ValueError(f"this server has one model: {loaded.info.name}")
            return super().load("default_model", adapter_path, draft_model_path)

    return OneModel(_arguments(loaded, limits))


def _arguments(loaded: LoadedModel, limits: batching.Limits) -> argparse.Namespace:
    """What mlx_lm's own command line would have parsed."""
    return argparse.Namespace(
        model=loaded.info.name, adapter_path=None, draft_model=None, num_draft_tokens=3, trust_remote_code=False,
        chat_template="", use_default_chat_template=False, temp=0.0, top_p=1.0, top_k=0, min_p=0.0, max_tokens=512,
        chat_template_args={}, decode_concurrency=limits.answers, prompt_concurrency=limits.prompts,
        prefill_step_size=PREFILL_STEP, prompt_cache_size=MAX_PROMPT_CACHES, prompt_cache_bytes=None,
        kv_bits=None, kv_group_size=64, quantized_kv_start=0, allowed_origins=[], pipeline=False,
    )  # fmt: skip
