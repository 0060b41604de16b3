"""Search with its_hub, choose with our verifier: `arts serve` as a process and an outcome reward model.

    pip install "its_hub[lm]"
    arts serve --proposer countdown                                   # in another terminal
    python examples/its_hub_search.py "3 5 7 11 > 24"

Its best-of-N asks for whole solutions and has each scored once. Its other searches (beam, particle filtering) want a
model that goes on from an assistant's message; `ArtsProcessReward` is what they take. Scores are the verifier's
chances, in [0, 1], as its_hub wants them.
"""

import json
import os
import sys
import urllib.request
from typing import Any

try:
    from its_hub import BestOfN, OpenAICompatibleLanguageModel
    from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel
except ModuleNotFoundError as error:
    sys.exit(f'this example needs its_hub: pip install "its_hub[lm]" ({error})')

URL = os.environ.get("ARTS_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ.get("ARTS_KEY", "any")


def values(problem: str, texts: list[str], *, finished: bool) -> list[float]:
    """The verifier's chance that each solution ends right; all in one call."""
    body = {
        "messages": [{"role": "user", "content": problem}],
        "prefixes": [{"text": text, "finished": finished} for text in texts],
    }
    request = urllib.request.Request(
        f"{URL}/score",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [row["value"] for row in json.load(answer)["data"]]


class ArtsOutcomeReward(AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Scores whole conversations by their last answer."""

    def score(self, conversations: Any, **_: Any) -> list[float]:
        problem = conversations[0][-2].content
        return values(problem, [one[-1].content for one in conversations], finished=True)

    async def ascore(self, conversations: Any, orchestrator: Any = None, **_: Any) -> list[float]:
        return self.score(conversations)


class ArtsProcessReward(AbstractProcessRewardModel):  # type: ignore[misc]
    """Scores answers that are still being written; its searches hand over the whole text so far."""

    def score(self, prompt: Any, texts: list[str]) -> list[float]:
        problem = prompt if isinstance(prompt, str) else prompt[-1].content
        return values(problem, texts, finished=False)

    async def ascore(self, prompt: Any, texts: list[str]) -> list[float]:
        return self.score(prompt, texts)


def main() -> None:
    problem = sys.argv[1] if len(sys.argv) > 1 else "3 5 7 11 > 24"
    model = os.environ.get("ARTS_MODEL", "countdown")
    proposer = OpenAICompatibleLanguageModel(endpoint=URL, api_key=KEY, model_name=model)
    result = BestOfN(ArtsOutcomeReward()).infer(proposer, problem, budget=16, return_response_only=False)
    for score, answer in sorted(zip(result.scores, result.responses, strict=True), key=lambda pair: -pair[0])[:5]:
        print(f"{score:.3f}  {answer['content']}")
    first = result.the_one["content"].partition(";")[0] + ";"
    (guide,) = ArtsProcessReward().score(problem, [first])
    print(f"after its first step, {first} the chance is {guide:.3f}")


if __name__ == "__main__":
    main()
