"""A server that speaks OpenAI's protocol and misbehaves on command, and keeps a log of all it did.

    python tests/fake_server.py --port 8000 --log FILE --faults '{"429": 0.02}' --latency 0.01

Its model draws the steps of toy trees: the same from the same seed, with log-probabilities and token ids. Every request
for choices is one line of the log, written before the answer is sent: which fault it met, and the rollouts it served.
"""

import argparse
import asyncio
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arts.proposers.table import TableProposer
from arts.protocols import Request
from arts.tasks.toy import LETTERS, SEPARATOR_ID, STEP_SEPARATOR, ToyTask, ToyTree, toy_tree
from arts.tree import Step

FAULTS = (
    "429",
    "500",
    "502 html",
    "slow",
    "stall",
    "truncated",
    "reset",
    "wrong count",
    "empty",
    "duplicate",
    "not utf-8",
    "no usage",
    "wrong usage",
)
"""`slow`, `wrong count`, `duplicate`, `no usage` and `wrong usage` still give something that can be used."""


@dataclass
class Settings:
    """How the server behaves."""

    model: str = "toy"
    "toy or sums"
    faults: dict[str, float] = field(default_factory=dict)
    "chance of each fault"
    latency_s: float = 0.0
    capacity: int = 1 << 30
    "requests at once; more wait"
    n: bool = True
    "it gives several choices"
    log_probs: bool = True
    token_ids: bool = True
    says_stop: bool = True
    extra_fields: bool = True
    "unknown fields are taken; otherwise 400"
    continues: bool = True
    trims: bool = False
    "blanks at the end of an assistant's message are lost"
    usage: bool = True
    key: str | None = None
    stall_s: float = 3.0
    slow_s: float = 0.3
    seed: int = 0
    redirect: str | None = None
    max_model_len: int = 4096
    limit_field: str = "max_tokens"
    "its name for the longest answer; another one is refused"


class Model:
    """Draws from the toy tree that a prompt names. Ids: those of toy trees; of a prompt, 1000 + each letter's code."""

    def __init__(self) -> None:
        self.task = ToyTask(3, 3)
        self.proposers: dict[float, TableProposer] = {}

    def prompt_ids(self, text: str) -> list[int]:
        return [1000 + ord(letter) for letter in text]

    def read(self, prompt: str | list[int]) -> tuple[str, str]:
        """The prompt, and what was said so far."""
        if not isinstance(prompt, str):
            toy_ids = dict(enumerate([*LETTERS, STEP_SEPARATOR, ""]))
            prompt = "".join(chr(one - 1000) if one >= 1000 else toy_ids[one] for one in prompt)
        found = re.fullmatch(r"(toy \S+ (?:rare )?seed \d+)(.*)", prompt, re.DOTALL)
        assert found, prompt
        return found[1], found[2]

    def draw(self, prompt: str, begun: str, seed: int, temperature: float) -> list[tuple[str, int, float]]:
        """Tokens of a rollout from where it stands, with ids and raw log-probabilities."""
        problem = self.task.parse(prompt)
        toy = toy_tree(problem)
        head, inside = begun, ""
        if begun and not begun.endswith(STEP_SEPARATOR):  # in the middle of a step
            head, inside = begun[:-1], begun[-1]
        node = toy.find(head)
        assert node is not None, begun
        tokens: list[tuple[str, int, float]] = []
        while toy.children[node]:
            if inside:
                node = next(child for child in toy.children[node] if toy.letters[child] == inside)
            elif temperature == 0:
                node = max(toy.children[node], key=lambda child: toy.probabilities[child])
            else:
                one = self.proposers.setdefault(temperature, TableProposer(temperature=temperature))
                reply = one.propose([Request(problem, steps_to(toy, node), (seed,), 99, whole=False)])[0]
                node = toy.find(toy.text(node) + reply.draws[0][0].text) or 0
            letter, end = toy.step(node).token_ids
            if not inside:
                tokens.append((toy.letters[node], letter, math.log(toy.probabilities[node])))
            tokens.append((STEP_SEPARATOR if end == SEPARATOR_ID else "", end, 0.0))
            inside = ""
        return tokens


class SumsModel(Model):
    """Adds up `What is 12 + 5 - 3?` step by step, and guesses a round number in half of them. Has no token ids."""

    def read(self, prompt: str | list[int]) -> tuple[str, str]:
        assert isinstance(prompt, str)
        head, _, begun = prompt.partition("boxed{}.")
        return head + "boxed{}.", begun

    def draw(self, prompt: str, begun: str, seed: int, temperature: float) -> list[tuple[str, int, float]]:
        found = re.search(r"What is ([-+ \d]+)\?", prompt)
        assert found, prompt
        signs = found[1].replace("- ", "-").replace("+ ", "")
        numbers = [int(one) for one in signs.split()]
        tokens: list[tuple[str, int, float]] = []
        if begun.endswith("."):  # a whole step, whose blank line is still to be said
            tokens, begun = [("\n\n", 0, 0.0)], f"{begun}\n\n"
        said = begun.split("\n\n")[:-1]  # whole steps; what is begun of the next one is said again by the greedy model
        value = int(re.findall(r"-?\d+", said[-1])[-1]) if said else numbers[0]
        for place, number in enumerate(numbers[len(said) + 1 :], start=len(said)):
            rng = random.Random(f"{prompt} {place} {value} {seed}")
            lazy = temperature > 0 and rng.random() < 0.5
            line = f"{value} {'-' if number < 0 else '+'} {abs(number)} = "
            value += number
            if lazy:  # 47 becomes 50; a round number becomes another one
                value = 10 * round(value / 10) if value % 10 else value + 10
            tokens += [(one, 0, 0.0) for one in re.findall(r"\S+ ?| ", line)]
            tokens += [(f"{value}.", 0, math.log(0.5)), ("\n\n", 0, 0.0)]
        tokens += [(one, 0, 0.0) for one in ("The ", "answer ", "is ", "\\boxed{", str(value), "}.", "")]
        partial = begun.rpartition("\n\n")[2]
        while partial and tokens:
            token = tokens.pop(0)
            shown = partial.startswith(token[0])
            rest = "" if shown else token[0].removeprefix(partial)
            partial = partial[len(token[0]) :] if shown else ""
            if rest:
                tokens.insert(0, (rest, 0, 0.0))
        return tokens


def steps_to(toy: ToyTree, node: int) -> tuple[Step, ...]:
    return tuple(toy.step(one) for one in toy.path(node))


class Server:
    """The ASGI application."""

    def __init__(self, settings: Settings, log: Path | None = None) -> None:
        self.settings = settings
        self.model = SumsModel() if settings.model == "sums" else Model()
        self.rows: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.keys: list[str | None] = []
        self._places = asyncio.Semaphore(settings.capacity)
        self._rng = random.Random(settings.seed)
        self._file = log.open("a", encoding="utf-8") if log else None

    def log(self, **row: Any) -> None:
        self.rows.append(row)
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.keys.append(headers.get("authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            async with self._places:
                await self._answer(scope["path"], headers, json.loads(body) if body else {}, Answer(send))
        finally:
            self.in_flight -= 1

    async def _answer(self, path: str, headers: dict[str, str], body: dict[str, Any], answer: "Answer") -> None:
        settings = self.settings
        if settings.redirect:
            return await answer.send(307, b"", {"Location": settings.redirect + path})
        if settings.key and headers.get("authorization") != f"Bearer {settings.key}":
            return await answer.json(401, {"error": {"message": f"bad key {headers.get('authorization')}"}})
        if path.endswith("/models"):
            row = {"id": settings.model, "owned_by": "fake", "max_model_len": settings.max_model_len}
            return await answer.json(200, {"data": [row]})
        if path == "/tokenize" and settings.token_ids:
            text = "".join(message["content"] for message in body["messages"])
            return await answer.json(200, {"tokens": self.model.prompt_ids(text)})
        if not path.endswith("completions"):
            return await answer.json(404, {"error": {"message": "not found"}})
        if settings.limit_field not in body:
            return await answer.json(400, {"error": {"message": f"use {settings.limit_field!r} instead"}})
        body["max_tokens"] = body.pop(settings.limit_field)
        known = {"model", "messages", "prompt", "temperature", "top_p", "max_tokens", "n", "seed", "stop", "logprobs"}
        unknown = body.keys() - known - {"top_logprobs"}
        if unknown and not settings.extra_fields:
            return await answer.json(400, {"error": {"message": f"unknown fields {sorted(unknown)}"}})
        if body["max_tokens"] > settings.max_model_len:
            return await answer.json(400, {"error": {"message": "max_tokens is above max_model_len"}})
        fault = self._fault()
        await asyncio.sleep(settings.latency_s + (settings.slow_s if fault == "slow" else 0.0))
        await self._choices(path, body, fault, answer)

    def _fault(self) -> str | None:
        place = self._rng.random()
        for name, chance in self.settings.faults.items():
            place -= chance
            if place < 0:
                return name
        return None

    async def _choices(self, path: str, body: dict[str, Any], fault: str | None, answer: "Answer") -> None:
        chat = path.endswith("chat/completions")
        prompt, begun = self._read(body, chat)
        count = body.get("n", 1) if self.settings.n else 1
        seed = body.get("seed", random.getrandbits(31))
        choices = [self._choice(body, prompt, begun, seed, index, chat) for index in range(count)]
        tokens = [choice.pop("_tokens") for choice in choices]
        reply: dict[str, Any] = {"choices": choices}
        if self.settings.usage:
            reply["usage"] = {"prompt_tokens": len(prompt) + len(begun), "completion_tokens": sum(tokens)}
        row = {
            "fault": fault,
            "prompt": prompt,
            "begun": begun,
            "seed": seed,
            "n": count,
            "served": [choice["message"]["content"] if chat else choice["text"] for choice in choices],
            "tokens": tokens,
            "logprobs": "logprobs" in body,
        }
        unusable = {"429", "500", "502 html", "stall", "truncated", "reset", "empty", "not utf-8"}
        if fault in unusable:
            self.log(**row | {"served": [], "tokens": []})
            return await self._misbehave(fault, reply, answer)
        if fault == "wrong count":
            reply["choices"] = choices[: count // 2] if count > 1 else [*choices, {**choices[0], "index": 1}]
            row["served"], row["tokens"] = row["served"][: max(1, count // 2)], tokens[: max(1, count // 2)]
            if usage := reply.get("usage"):
                usage["completion_tokens"] = sum(row["tokens"])
        elif fault == "duplicate":
            reply["choices"] = [*choices, choices[0]]
        elif fault == "no usage":
            reply.pop("usage", None)
        elif fault == "wrong usage":
            reply["usage"] = random.Random(seed).choice(
                [{"prompt_tokens": -1, "completion_tokens": 0}, {"completion_tokens": "many"}, "free of charge"]
            )
        self.log(**row)
        await answer.json(200, reply)

    async def _misbehave(self, fault: str | None, reply: dict[str, Any], answer: "Answer") -> None:
        content = json.dumps(reply).encode()
        if fault == "429":
            await answer.json(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0.02"})
        elif fault == "500":
            await answer.json(500, {"error": {"message": "internal error"}})
        elif fault == "502 html":
            await answer.send(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>")
        elif fault == "empty":
            empty = [
                {**choice, "text": "", "message": {"content": ""}, "logprobs": None} for choice in reply["choices"]
            ]
            for choice in empty:
                choice.pop("token_ids", None)
            await answer.json(200, {"choices": empty})
        elif fault == "not utf-8":
            await answer.send(
                200, content.replace(b'"text": "', b'"text": "\xff\xfe').replace(b'"content": "', b'"content": "\xff')
            )
        elif fault == "truncated":
            await answer.send(200, content[: len(content) // 2])
        else:  # stall, reset
            await answer.start(200, {"Content-Length": str(len(content))})
            await answer.part(content[: len(content) // 3], more=True)
            if fault == "stall":
                await asyncio.sleep(self.settings.stall_s)
            raise ConnectionResetError("on purpose")

    def _read(self, body: dict[str, Any], chat: bool) -> tuple[str, str]:
        """The prompt and what was said so far."""
        if not chat:
            return self.model.read(body["prompt"])
        messages = body["messages"]
        begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" and self.settings.continues else ""
        begun = begun.rstrip() if self.settings.trims else begun
        return messages[-2 if messages[-1]["role"] == "assistant" else -1]["content"], begun

    def _choice(
        self, body: dict[str, Any], prompt: str, begun: str, seed: int, index: int, chat: bool
    ) -> dict[str, Any]:
        drawn = self.model.draw(prompt, begun, seed + index, body.get("temperature", 1.0))
        stop = (body.get("stop") or [None])[0]
        finish, matched = "stop", None
        text = ""
        for count, (token, _, _) in enumerate(drawn, start=1):
            text += token
            if count > body["max_tokens"]:
                drawn, finish, text = drawn[: count - 1], "length", text.removesuffix(token)
                break
            if stop is not None and stop in text:
                drawn, matched = drawn[:count], stop
                text = text[: text.find(stop) + (len(stop) if body.get("include_stop_str_in_output") else 0)]
                break
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "_tokens": len(drawn)}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if self.settings.says_stop:
            choice["stop_reason"] = matched
        if self.settings.token_ids and body.get("return_token_ids"):
            choice["token_ids"] = [token_id for _, token_id, _ in drawn]
        if self.settings.log_probs and body.get("logprobs"):
            choice["logprobs"] = self._log_probs(drawn, chat, body.get("top_logprobs", 0))
        return choice

    def _log_probs(self, drawn: list[tuple[str, int, float]], chat: bool, top: int) -> dict[str, Any]:
        shown = [(token or "<eos>", value) for token, _, value in drawn]
        if not chat:
            return {"tokens": [token for token, _ in shown], "token_logprobs": [value for _, value in shown]}
        others = [{"token": LETTERS[index], "logprob": -0.5 - 0.7 * index} for index in range(top)]
        return {"content": [{"token": token, "logprob": value, "top_logprobs": others} for token, value in shown]}


@dataclass
class Answer:
    """One answer on its way."""

    _send: Callable[[dict[str, Any]], Any]

    async def start(self, status: int, headers: dict[str, str]) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def part(self, content: bytes, *, more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        await self.start(status, {"Content-Length": str(len(content)), **(headers or {})})
        await self.part(content)

    async def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        await self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--settings", type=json.loads, default={}, help=f"JSON of {asdict(Settings())}")
    arguments = parser.parse_args()
    server = Server(Settings(**arguments.settings), arguments.log)
    uvicorn.run(server, host="127.0.0.1", port=arguments.port, log_level="critical", lifespan="off")


if __name__ == "__main__":
    main()
