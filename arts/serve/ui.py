"""The page of `arts serve --ui`, and what it asks the server about itself.

A browser cannot send a key with an address, so the page is given to whoever reaches the server. It therefore holds
nothing of this server, no name and no limit; those are at `/ui/offer`, which wants a key like all other routes. The
page is one file, talks to its own origin only, and shows what models wrote as text.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response

from arts.pages.html import Markup, asset, document
from arts.pages.scripts import tree_scripts, tree_styles
from arts.protocols import ScoreScale, Task
from arts.serve.names import listed_models, strategy_of_model
from arts.serve.service import Service

PAGE = "/"
_SCRIPTS = ("server.js", "run.js", "outcome.js", "live.js")
_HEADERS = {
    "Cache-Control": "no-store",
    # What a page cannot say of itself. The rest of its policy is in the page.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NUM_EXAMPLES = 8
_FIRST_EXAMPLE = {"countdown": "3 5 7 11 > 24"}
_DRAWS_OF_BUDGET = 16
"The budget that the page suggests lasts for so many draws, however long they are."
_LOWEST_CHANCE = 0.01
"What has the coldest colour, where scores are chances."

IN_WORDS = {
    "arts": "Draws until the verifier is sure enough of an answer, and gives hopeless paths up early.",
    "best-of-n": "Draws whole solutions and takes the one that the verifier likes best.",
    "majority": "Draws whole solutions and takes the most frequent answer. No verifier.",
    "weighted-vote": "Draws whole solutions; each votes with its chance to be right.",
    "flow-vote": "Draws whole solutions; each votes with its flow.",
    "self-consistency": "Draws until it is sure which answer is the most frequent. No verifier.",
    "beam": "Goes on with the best few paths after each step.",
    "dvts": "Several greedy searches beside each other, so that they stay diverse.",
    "rebase": "Deals the draws of each step out to the paths by their value.",
    "ets": "Like rebase, among fewer paths that still differ from each other.",
    "best-first": "Goes on below the best step found so far, wherever it is.",
    "global-frontier": "Digs down to an end, then jumps to the best open step of the whole tree.",
    "mcts": "Monte-Carlo tree search with the verifier's values.",
    "dts": "Walks down by soft values, draws on to an end, and backs its score up.",
    "dts-star": "The greedy form of dts, which looks for the best end.",
    "flow-sampling": "Draws paths in proportion to their flow.",
    "value-augmented": "Draws paths, preferring steps of higher value.",
    "particle-filter": "Many paths at a time; after each step those where flow grows are doubled.",
}


def add_page(app: FastAPI, service: Service) -> None:
    """Add the page and its route."""
    page = render()
    offer = about(service)

    @app.get(PAGE, include_in_schema=False)
    async def live() -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    @app.get("/ui/offer", include_in_schema=False)
    async def offered() -> Response:
        return JSONResponse(offer, headers={"Cache-Control": "no-store"})


def render() -> str:
    """The page as the text of one file, the same for all servers."""
    return document(
        "ARTS",
        Markup(asset("arts.serve", "page/live.html")),
        styles=tree_styles("arts.serve", "live.css"),
        scripts=tree_scripts("arts.serve", _SCRIPTS, with_latex=True),
        served=True,
    )


def about(service: Service) -> dict[str, Any]:
    """What the page offers to choose from, and how to read this server's scores."""
    offer, scale = service.offer, service.scale
    task, limits = offer.task, offer.limits
    strategies = [
        {"model": name, "about": IN_WORDS[strategy.id], "scored": strategy.scores != "none"}
        for name in listed_models(scored=offer.scored)
        if (strategy := strategy_of_model(name)) is not None
    ]
    return {
        "base_model": offer.base_model,
        "task": task.name if offer.checks else None,
        "checks": offer.checks,
        "examples": list(_examples(task)),
        "strategies": strategies,
        "strategy": strategies[0]["model"],
        "budget_tokens": min(limits.max_budget_tokens, _DRAWS_OF_BUDGET * task.max_new_tokens),
        "max_budget_tokens": limits.max_budget_tokens,
        "score": {
            "kind": scale.kind,
            "law": "mean" if scale.inner_is_value or scale.kind == "log_value" else "sum",
            "range": _range(scale),
        },
    }


def _examples(task: Task) -> Iterator[str]:
    """Problems that can be typed."""
    first = _FIRST_EXAMPLE.get(task.name)
    if first is not None:
        yield first
    for problem in islice(task.problems("test", 0), _NUM_EXAMPLES):
        try:
            task.parse(problem.prompt)
        except ValueError:
            return
        yield problem.prompt


def _range(scale: ScoreScale) -> tuple[float, float] | None:
    """Scores of the coldest and the warmest colour, which stay while a tree grows; None: those of the tree."""
    if scale.kind == "log_flow":
        return math.log(scale.reward_wrong), math.log(scale.reward_right)
    return (math.log(_LOWEST_CHANCE), 0.0) if scale.kind == "log_value" else None
