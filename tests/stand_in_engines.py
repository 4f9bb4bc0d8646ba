"""Stand-ins for engines that tests start as processes: they speak like the engine, and compute nothing."""

from __future__ import annotations

import sys
from pathlib import Path

FATAL = "a prompt that is the end"
"""At this prompt the engine is killed, as by a machine without memory.

Batches of 256 it does not know, and batches of 512 kill it when it starts; models called mute get no probabilities.
"""

LLAMA = '''#!{python}
"""A stand-in for llama-server: it says which tokens come next by a formula of the prompt and of its flags."""
import json, math, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if flags.get("--batch-size") == "256":
    sys.exit("error: invalid argument: --batch-size")
if flags.get("--batch-size") == "512":
    os.kill(os.getpid(), signal.SIGKILL)
noise = {{"f16": 0.0, "q8_0": 0.001, "q4_0": 0.3}}.get(flags.get("--cache-type-k", "f16"), 0.02)
speed = {{"512": 1.0, "64": 2.0}}.get(flags.get("--ubatch-size", "512"), 1.0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({{
            "/health": {{"status": "ok"}},
            "/props": {{"default_generation_settings": {{"n_ctx": 4096}}, "build_info": "b1-stand-in"}},
            "/v1/models": {{"data": [{{"id": "stand-in"}}]}},
        }}.get(self.path, {{}}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.answer({{"tokens": [ord(c) for c in body["content"]]}})
        if self.path == "/completion":
            place = sum(body["prompt"]) % 7
            logits = [-0.5 * ((i + place) % 9) + noise * math.sin(i * place + 1) for i in range(9)]
            total = math.log(sum(map(math.exp, logits)))
            top = [{{"id": i, "logprob": logit - total}} for i, logit in enumerate(logits)]
            if "mute" in flags["--model"]:
                return self.answer({{"content": "a"}})
            return self.answer({{"completion_probabilities": [{{"top_logprobs": top[: body["n_probs"]]}}]}})
        if body["prompt"] == {fatal!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        prompt = len(body["prompt"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        time.sleep(prompt * 1e-5 / speed)
        for _ in range(body["max_tokens"]):
            time.sleep(2e-3 / speed)
            self.event({{"choices": [{{"index": 0, "text": "a"}}]}})
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


def llama_server(folder: Path) -> Path:
    """An executable `llama-server` in a folder, which is to be put on PATH."""
    made = folder / "llama-server"
    made.write_text(LLAMA.format(python=sys.executable, fatal=FATAL), "utf-8")
    made.chmod(0o755)
    return made
