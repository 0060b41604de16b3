"""Ask an OpenAI-compatible server what it really does: most answer 200 to what they ignore.

`probe` sends a dozen short requests of the kind that the server is to be used for, and looks at what comes back.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from arts.net.client import Client, RequestFailed
from arts.proposers.capabilities import (
    CONTINUE_FLAGS,
    EXTRA_FIELDS,
    PATHS,
    Capabilities,
    Continuing,
    LimitField,
    LocalTokenizer,
    chat_messages,
)
from arts.proposers.openai_reply import Choice, Completion, Route, read_completion
from arts.tree import LogPriorLaw, Problem

_FORMS: tuple[tuple[bool, bool, LimitField], ...] = (
    (True, True, "max_tokens"),
    (True, False, "max_tokens"),
    (True, False, "max_completion_tokens"),
    (False, True, "max_tokens"),
    (False, False, "max_tokens"),
)
"""Of a request: a chat? with fields beyond OpenAI's? and how is the longest answer called? The best one first."""


class Load(NamedTuple):
    """Requests a second with so many in flight."""

    in_flight: int
    requests_per_s: float


async def find_model(client: Client, wanted: str | None) -> Mapping[str, Any]:
    """The server's row on a model.

    Raises:
        ValueError: none was named and the server has several, or it has not the one that was named.
    """
    try:
        rows, _ = await client.get("models", _model_rows)
    except RequestFailed as failure:
        if wanted is None:
            raise ValueError(
                f"{client.base_url} lists no models ({failure}); name one: {client.base_url}#MODEL"
            ) from None
        return {"id": wanted}
    names = [row["id"] for row in rows]
    if wanted is None and len(rows) == 1:
        return rows[0]
    if wanted is None:
        raise ValueError(f"{client.base_url} has the models {', '.join(names) or 'none'}; name one: URL#MODEL")
    for row in rows:
        if row["id"] == wanted or row.get("root") == wanted:
            return row
    # Some servers list only what they have loaded so far, and transformers adds a revision to names.
    if names and not any(name.startswith(f"{wanted}@") for name in names) and rows[0].get("owned_by") == "vllm":
        raise ValueError(f"{client.base_url} has no model {wanted!r}; it has {', '.join(names)}")
    return {"id": wanted}


def _model_rows(body: Any) -> list[dict[str, Any]]:
    """Rows on models, as far as they are to be understood: some servers have a bare list, and some another form."""
    rows = body.get("data") if isinstance(body, Mapping) else body
    rows = rows if isinstance(rows, list) else []
    return [{**row, "id": str(row["id"])} for row in rows if isinstance(row, Mapping) and "id" in row]


async def probe(
    client: Client,
    model: str | None,
    prompt: str,
    *,
    system: str | None = None,
    tokenizer: LocalTokenizer | None = None,
) -> Capabilities:
    """Ask a server what it does with a prompt of the kind it is to be used for.

    Raises:
        ValueError: there is no such model, or the server answers no request for it.
        ServerUnavailable: the server is down or wants another key.
    """
    row = await find_model(client, model)
    asking = _Asking(client, str(row["id"]), chat_messages(Problem("probe", prompt), system), tokenizer)
    client.in_a_hurry = True
    try:
        return await _ask_all(asking, row, prompt)
    finally:
        client.in_a_hurry = False


async def _ask_all(asking: "_Asking", row: Mapping[str, Any], prompt: str) -> Capabilities:
    meta = row.get("meta")
    context = row.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, Mapping) else None)
    await asking.find_fields()
    log_probs = await asking.has_log_probs()
    wanted: dict[str, Any] = {"logprobs": True} if log_probs else {}
    greedy = await asking.greedy(**wanted)
    first = greedy.choices[0]
    continuing = await asking.continuing(first)
    return Capabilities(
        model=str(row["id"]),
        server=str(row.get("owned_by", "unknown")),
        continuing=continuing,
        trims=continuing in ("continue_final_message", "prefill") and await asking.trims(first, continuing),
        chat=asking.chat,
        n=await asking.gives_several(),
        log_probs=log_probs,
        log_prior_law=await asking.law() if log_probs else None,
        usage=greedy.generated_tokens is not None,
        extra_fields=asking.extra,
        limit_field=asking.limit,
        repeats_prompt=first.text.lstrip().startswith(prompt.strip()),
        max_context=context if isinstance(context, int) and context > 0 else None,
        **await asking.stops(first),
        **await asking.sampling(),
    )


class _Asking:
    """The questions, one a method."""

    def __init__(
        self, client: Client, model: str, messages: list[dict[str, Any]], tokenizer: LocalTokenizer | None
    ) -> None:
        self.client, self.model, self.messages, self.tokenizer = client, model, messages, tokenizer
        self.extra, self.chat, self.coldest = True, True, 0.0
        self.limit: LimitField = "max_tokens"

    async def ask(self, begun: str = "", **fields: Any) -> Completion:
        """A question of the prompt, and of what was said so far."""
        if self.chat:
            assistant = [{"role": "assistant", "content": begun}] if begun else []
            return await self._post("chat", {"messages": self.messages + assistant}, fields)
        return await self._text(begun, **fields)

    async def _text(self, begun: str, **fields: Any) -> Completion:
        local = self.tokenizer.prompt_text(self.messages) if self.tokenizer else self.messages[-1]["content"]
        if "logprobs" in fields:
            fields["logprobs"] = 1
        return await self._post("completions", {"prompt": local + begun}, fields)

    async def _post(self, route: Route, what: Mapping[str, Any], fields: Mapping[str, Any]) -> Completion:
        body = self._body({"top_p": 1.0, **what, **fields})
        completion, _ = await self.client.post(
            PATHS[route], body, lambda answer: read_completion(answer, route, 1 << 20, fields.get("n", 1))
        )
        return completion

    def _body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        body = {"model": self.model, **fields, **(EXTRA_FIELDS if self.extra else {})}
        body[self.limit] = body.pop("max_tokens")
        return body

    async def find_fields(self) -> None:
        """Does it chat, and take fields beyond OpenAI's? Raises ValueError where it takes no request at all."""
        said = []
        for self.chat, self.extra, self.limit in _FORMS:
            try:
                await self.ask(temperature=1.0, max_tokens=1)
                return
            except RequestFailed as failure:
                if failure.kind != "refused":
                    raise
                said.append(str(failure))
        hint = "" if self.client.base_url.endswith("/v1") else " (most servers' address ends with /v1)"
        raise ValueError(
            f"{self.client.base_url} answers no request for model {self.model!r}{hint}: {said[0]}; {said[-1]}"
        )

    async def greedy(self, **fields: Any) -> Completion:
        """What it says without chance, or nearly so where it takes no temperature of 0."""
        try:
            return await self.ask(temperature=self.coldest, max_tokens=32, **fields)
        except RequestFailed as failure:
            if failure.kind != "refused":
                raise
        self.coldest = 0.01
        return await self.ask(temperature=self.coldest, max_tokens=32, **fields)

    async def has_log_probs(self) -> bool:
        with_them = await _tried(self.ask(temperature=1.0, max_tokens=4, logprobs=True))
        return with_them is not None and bool(with_them.choices[0].log_probs)

    async def gives_several(self) -> bool:
        """Does one request with one seed give several different draws?

        Asked three times, as one answer of a faulty server proves nothing, and equal draws may be chance.
        """
        for seed in (7, 8, 9):
            several = await _tried(self.ask(temperature=1.0, max_tokens=24, n=4, seed=seed))
            if several is not None and len(several.choices) == 4 and len({one.text for one in several.choices}) > 1:
                return True
        return False

    async def stops(self, greedy: Choice) -> dict[str, bool]:
        """Stop at a sign from the middle of what it says by itself."""
        text = greedy.text
        signs = [sign for sign in text[len(text) // 3 :] if not sign.isspace() and text.find(sign) > 0]
        if not signs:
            return {}
        stopped = await _tried(self.ask(temperature=self.coldest, max_tokens=32, stop=[signs[0]]))
        if stopped is None:
            return {}
        one = stopped.choices[0]
        obeyed = one.finish == "stop" and signs[0] not in one.text[:-1] and len(one.text) < len(text)
        return {"stop_strings": obeyed, "says_stop": obeyed and one.matched_stop == signs[0]}

    async def sampling(self) -> dict[str, bool]:
        """Equal seeds, equal draws; other seeds, others."""
        seeds = (7, 7, 8, 9, 10, 11)
        draws = [await _tried(self.ask(temperature=1.0, max_tokens=24, seed=seed)) for seed in seeds]
        texts = [draw.choices[0].text for draw in draws if draw is not None]
        differ = len(set(texts)) > 1
        return {"seed": len(texts) == len(seeds) and texts[0] == texts[1] and differ, "samples": differ}

    async def law(self) -> LogPriorLaw | None:
        """Gaps between log-probabilities at temperature .5 double where they are of the law that is drawn from."""
        gaps = []
        for temperature in (1.0, 0.5):
            fields = {"max_tokens": 1, "temperature": temperature}
            what: dict[str, Any] = {"messages": self.messages, "logprobs": True, "top_logprobs": 5}
            if not self.chat:
                what = {"prompt": self.messages[-1]["content"], "logprobs": 5}
            body = self._body({**what, **fields})
            path = PATHS["chat" if self.chat else "completions"]
            try:
                top, _ = await self.client.post(path, body, _first_top_log_probs)
            except RequestFailed:
                return None
            gaps.append(top)
        shared = sorted(gaps[0].keys() & gaps[1].keys(), key=lambda token: -gaps[0][token])
        if len(shared) < 2:
            return None
        plain, warm = (gap[shared[0]] - gap[shared[1]] for gap in gaps)
        if abs(plain) < 1e-3:
            return None
        ratio = warm / plain
        return "raw" if abs(ratio - 1) < 0.1 else "sampling" if abs(ratio - 2) < 0.2 else None

    async def continuing(self, greedy: Choice) -> Continuing:
        """The first way in which half of a greedy answer goes on to its other half."""
        # Ids are of use where each is known to be the one of a token with a place in the text.
        if self.chat and greedy.token_ids and len(greedy.token_ids) == len(greedy.tokens):
            ids = self.tokenizer.prompt_ids(self.messages) if self.tokenizer else None
            ids = ids or await tokenize(self.client, self.model, self.messages)
            half = len(greedy.token_ids) // 2
            body = {"prompt": [*(ids or ()), *greedy.token_ids[:half]]}
            fields = {"temperature": self.coldest, "max_tokens": 32 - half}
            rest = await _tried(self._post("completions", body, fields)) if ids else None
            if rest is not None and rest.choices[0].token_ids == greedy.token_ids[half:]:
                return "token_ids"
        middle = len(greedy.text) // 2
        start, end = greedy.text[:middle], greedy.text[middle:].strip()
        fields = {"temperature": self.coldest, "max_tokens": 32}
        ways: list[tuple[Continuing, Coroutine[Any, Any, Completion]]] = []
        if self.chat:
            ways += [
                ("continue_final_message", self.ask(start, **fields, **CONTINUE_FLAGS)),
                ("prefill", self.ask(start, **fields)),
            ]
        if self.tokenizer is not None or not self.chat:
            ways.append(("text", self._text(start, **fields)))
        found: Continuing = "none"
        for way, asked in ways:
            # Tokens may be cut anew at the seam, so that the two need not agree to the end.
            if found != "none" or not start.strip() or not end:
                asked.close()
            elif (rest := await _tried(asked)) is not None and rest.choices[0].text.strip()[:4] == end[:4]:
                found = way
        return found

    async def trims(self, greedy: Choice, continuing: Continuing) -> bool:
        """Is what follows a blank line what follows without it?"""
        start = greedy.text[: len(greedy.text) // 2].rstrip()
        flags = CONTINUE_FLAGS if continuing == "continue_final_message" else {}
        fields = {"temperature": self.coldest, "max_tokens": 32, **flags}
        plain, behind_a_line = [await _tried(self.ask(begun, **fields)) for begun in (start, f"{start}\n\n")]
        return (
            plain is not None and behind_a_line is not None and plain.choices[0].text == behind_a_line.choices[0].text
        )


async def _tried(asked: Coroutine[Any, Any, Completion]) -> Completion | None:
    try:
        return await asked
    except RequestFailed:
        return None


def _first_top_log_probs(body: Any) -> dict[str, float]:
    found = body["choices"][0]["logprobs"]
    if "content" in found:
        return {str(row["token"]): float(row["logprob"]) for row in found["content"][0]["top_logprobs"]}
    return {str(token): float(value) for token, value in found["top_logprobs"][0].items()}


async def tokenize(client: Client, model: str, messages: list[dict[str, Any]]) -> list[int] | None:
    """Ids of a prompt under the server's own chat template, where the server tells (vLLM does)."""
    body = {"model": model, "messages": messages, "add_generation_prompt": True}
    try:
        ids, _ = await client.post("/tokenize", body, lambda answer: [int(one) for one in answer["tokens"]])
    except RequestFailed:
        return None
    return ids


async def measure_load(
    client: Client, capabilities: Capabilities, prompt: str, *, most: int, max_tokens: int = 16
) -> list[Load]:
    """Requests a second with 1, 2, 4, ... in flight, until twice as many bring less than a tenth more."""
    loads: list[Load] = []
    messages = chat_messages(Problem("load", prompt), None)
    what: dict[str, Any] = {"messages": messages} if capabilities.chat else {"prompt": prompt}
    body = {"model": capabilities.model, **what, "temperature": 1.0, capabilities.limit_field: max_tokens}
    route: Route = "chat" if capabilities.chat else "completions"

    async def one() -> None:
        await client.post(PATHS[route], body, lambda answer: read_completion(answer, route, max_tokens))

    async def worker(count: int) -> None:
        for _ in range(count):
            await one()

    await one()
    in_flight = 1
    while in_flight <= most:
        rounds = max(3, 8 // in_flight)
        started = time.monotonic()
        await asyncio.gather(*(worker(rounds) for _ in range(in_flight)))
        loads.append(Load(in_flight, rounds * in_flight / (time.monotonic() - started)))
        if len(loads) > 1 and loads[-1].requests_per_s < 1.1 * loads[-2].requests_per_s:
            break
        in_flight *= 2
    return loads
