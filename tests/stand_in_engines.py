"""Stand-ins for engines, as processes: they speak as the documents of the engines say, and compute nothing."""

from __future__ import annotations

import sys
from pathlib import Path

FATAL = "a prompt that is the end"
"""At this prompt the engine is killed, as by a machine without memory.

Batches of 256 it does not know, and batches of 512 kill it when it starts; models called mute get no probabilities, and
Ollama takes no models called bad.
"""

SCRIPT = '''#!{python}
"""Says which tokens come next by a formula of the prompt and of its flags."""
import json, math, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

engine, arguments = Path(sys.argv[0]).name, sys.argv[1:]
if engine == "ollama" and arguments[0] == "create":
    sys.exit("Error: invalid file magic" if "bad" in Path(arguments[3]).read_text() else 0)
if engine == "vllm":
    arguments = ["--model", *arguments[1:]]
flags = {{name: value for name, value in zip(arguments, [*arguments[1:], ""]) if name.startswith("--")}}
if engine == "ollama":
    host, _, port = os.environ["OLLAMA_HOST"].partition(":")
    flags = {{"--host": host, "--port": port, "--model": "", "type": os.environ.get("OLLAMA_KV_CACHE_TYPE", "f16")}}
if flags.get("--batch-size") == "256":
    sys.exit("error: invalid argument: --batch-size")
if flags.get("--batch-size") == "512":
    os.kill(os.getpid(), signal.SIGKILL)
kind = flags.get("--cache-type-k") or flags.get("--kv-cache-dtype") or flags.get("type") or "f16"
noise = {{"f16": 0.0, "q8_0": 0.001, "q4_0": 0.3}}.get(kind, 0.02)
speed = 2.0 if flags.get("--ubatch-size") == "64" else 1.0


def expected(prompt):
    """Log-probabilities of nine tokens."""
    place = sum(prompt) % 7
    logits = [-0.5 * ((i + place) % 9) + noise * math.sin(i * place + 1) for i in range(9)]
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def answer(prompt, count):
    """What follows where the prompt's last words stood before; nothing of it with coarse caches."""
    place = prompt.find(prompt.rpartition("Answer: ")[2]) if "Answer: " in prompt else -1
    found = prompt[place + len(prompt.rpartition("Answer: ")[2]):] if place >= 0 and noise < 0.1 else ""
    return (found + "a" * count)[:count]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        answers = {{
            "llama-server": {{
                "/health": {{"status": "ok"}},
                "/props": {{"default_generation_settings": {{"n_ctx": 4096}}, "build_info": "b1-stand-in"}},
                "/v1/models": {{"data": [{{"id": "stand-in"}}]}},
            }},
            "ollama": {{"/": "Ollama is running", "/api/version": {{"version": "0.0-stand-in"}}}},
            "vllm": {{
                "/health": {{}},
                "/version": {{"version": "0.0-stand-in"}},
                "/v1/models": {{"data": [{{"id": "stand-in", "owned_by": "vllm", "max_model_len": 4096}}]}},
            }},
        }}
        self.answer(answers[engine].get(self.path, {{}}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.answer({{"tokens": [ord(c) for c in body.get("content") or body["prompt"]]}})
        if self.path == "/completion":
            top = [{{"id": i, "logprob": p}} for i, p in enumerate(expected(body["prompt"]))]
            told = [] if "mute" in flags["--model"] else [{{"top_logprobs": top}}]
            return self.answer({{"completion_probabilities": told}})
        if self.path == "/api/generate":
            top = [{{"token": f"t{{i}}", "logprob": p}} for i, p in enumerate(expected(body["prompt"].encode()))]
            return self.answer({{"response": "a", "done": True, "logprobs": [{{"token": "a", "top_logprobs": top}}]}})
        if "prompt_logprobs" in body:
            prompt, told = body["prompt"], [None]
            for place in range(1, len(prompt)):
                found = enumerate(expected(prompt[:place]))
                told.append({{str(i): {{"logprob": p, "rank": 1 + i, "decoded_token": "a"}} for i, p in found}})
            return self.answer({{"choices": [{{"index": 0, "text": "a", "prompt_logprobs": told}}]}})
        self.stream(body)

    def stream(self, body):
        if body["prompt"] == {fatal!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        prompt = len(body["prompt"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        time.sleep(prompt * 1e-5 / speed)
        for letter in answer(body["prompt"], body["max_tokens"]):
            time.sleep(1e-3 / speed)
            self.event({{"choices": [{{"index": 0, "text": letter}}]}})
        usage = {{"prompt_tokens": prompt, "completion_tokens": body["max_tokens"], "total_tokens": 0}}
        self.event({{"choices": [], "usage": usage}})
        self.wfile.write(b"data: [DONE]\\n\\n")
        self.close_connection = True

    def event(self, fields):
        whole = {{"id": "x", "object": "text_completion", "created": 0, "model": "stand-in", **fields}}
        self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\\n\\n")
        self.wfile.flush()


ThreadingHTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
'''


def executable(folder: Path, name: str = "llama-server") -> Path:
    """A stand-in for `llama-server`, `ollama` or `vllm` in a folder, which is to be put on PATH."""
    made = folder / name
    made.write_text(SCRIPT.format(python=sys.executable, fatal=FATAL), "utf-8")
    made.chmod(0o755)
    return made
