"""What a collection will cost, has cost, and when it will be done: the lines of `--dry-run` and `--status`."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from arts.protocols import Task
from arts.sparse_deep_fork import CollectSettings
from arts.store import Collection, open_collection, read_trees
from arts.tree import ReasoningTree, StopReason, Usage

_MOST_PILOT_TREES = 512
_PROMPTS_LOOKED_AT = 256
_DECIDE_COST = ("num_samples", "pivots", "fork_probability", "forks_inside", "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for a million tokens; None where it is not known."""

    prompt: float | None = None
    generated: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "generated"):
            price = getattr(self, name)
            if price is not None and not price >= 0:
                raise ValueError(f"the price of {name} tokens is {price}; it must be at least 0")

    def of(self, prompt_tokens: float, generated_tokens: float) -> float | None:
        if self.prompt is None and self.generated is None:
            return None
        return (prompt_tokens * (self.prompt or 0.0) + generated_tokens * (self.generated or 0.0)) / 1e6


# --- before the first request -----------------------------------------------------------------------------------------


class Pilot(NamedTuple):
    """Means over the trees that are there already."""

    num_trees: int
    prompt_tokens: float
    "a tree"
    generated_tokens: float
    "a tree"


def dry_run_lines(
    task: Task,
    settings: CollectSettings,
    folder: Path,
    prices: Prices,
    tokens_per_s: float | None,
) -> Iterator[str]:
    """Tokens, money and time, as a bound, and as an estimate where the folder holds trees of the same settings."""
    problems = list(islice(task.problems(settings.split, settings.seed), settings.first_problem + _PROMPTS_LOOKED_AT))
    prompts = [problem.prompt for problem in problems[settings.first_problem :]]
    prompt_tokens = sum(-(-len(prompt) // 4) for prompt in prompts) / max(1, len(prompts))
    limit = settings.max_new_tokens or task.max_new_tokens
    trunks, forks = settings.num_trunks, _most_forks(settings)
    num_forks = trunks if forks is None else forks
    more = "" if forks == 0 else f", and {'about' if forks is None else 'at most'} {num_forks:,} forks each"
    yield f"{settings.num_problems:,} problems x {trunks} main trajectories of at most {limit:,} tokens{more}"
    most = settings.num_problems * limit * (trunks + num_forks)
    # A fork's prompt holds the path above it. Nobody has counted prompts: four characters count as a token.
    most_prompt = settings.num_problems * (prompt_tokens * (trunks + num_forks) + limit * num_forks)
    yield from _bill("at most", most_prompt, most, prices, tokens_per_s)
    pilot = _pilot(folder)
    if pilot is None:
        yield f"expected     not known before there are trees: collect 8 problems with --out {folder}-pilot,"
        yield f"             then --dry-run --out {folder}-pilot goes by them"
        return
    there, asked = dict(open_collection(folder).header["settings"]), asdict(settings)
    other = [name for name in there if name in _DECIDE_COST and there[name] != asked[name]]
    if other:
        yield f"expected     not known: the trees in {folder} were drawn with another {', '.join(other)}"
        return
    yield f"means of the {pilot.num_trees:,} trees in {folder}: {pilot.generated_tokens:,.0f} tokens a problem"
    goes_on = there["num_problems"] == settings.num_problems
    left = settings.num_problems - (open_collection(folder).num_trees() if goes_on else 0)
    speed = tokens_per_s or _measured_speed(open_collection(folder))
    yield from _bill("expected", left * pilot.prompt_tokens, left * pilot.generated_tokens, prices, speed)


def _bill(
    name: str, prompt_tokens: float, generated_tokens: float, prices: Prices, tokens_per_s: float | None
) -> Iterator[str]:
    yield f"{name:<12} {_many(generated_tokens)} tokens generated, {_many(prompt_tokens)} prompt tokens sent"
    money = prices.of(prompt_tokens, generated_tokens)
    yield f"{'':<12} {'price: give --price-prompt and --price-generated' if money is None else f'price: {money:,.2f}'}"
    if tokens_per_s:
        yield f"{'':<12} time: {duration(generated_tokens / tokens_per_s)} at {tokens_per_s:,.0f} tokens a second"
    else:
        yield f"{'':<12} time: give --tokens-per-second; `arts doctor` measures requests a second"


def _most_forks(settings: CollectSettings) -> int | None:
    """Forks of a problem; None where their number depends on how many steps there are."""
    if settings.pivots == "none" or settings.forks_inside:
        return 0
    return settings.num_trunks * settings.forks_per_pivot if settings.pivots in ("auto", "trajectory") else None


def _pilot(folder: Path) -> Pilot | None:
    if not (folder / "collection.json").is_file():
        return None
    trees = list(islice(open_collection(folder).trees(), _MOST_PILOT_TREES))
    if not trees:
        return None
    usage = _total(trees)
    return Pilot(len(trees), usage.prompt_tokens / len(trees), usage.generated_tokens / len(trees))


def _measured_speed(collection: Collection) -> float | None:
    status = collection.read_status()
    if status is None or not {"started", "updated", "generated_tokens"} <= status.keys():
        return None
    if status["updated"] - status["started"] < 1:
        return None
    return float(status["generated_tokens"]) / (status["updated"] - status["started"]) or None


# --- while it runs ----------------------------------------------------------------------------------------------------


def status_lines(folder: Path, prices: Prices) -> Iterator[str]:
    """How far a collection is, what it has cost so far, and when it will be done."""
    collection = open_collection(folder)
    running = collection.is_being_written()
    total = int(dict(collection.header.get("settings", {})).get("num_problems", 0))
    if total < 1:
        raise ValueError(f"{folder / 'collection.json'} does not say how many problems were wanted")
    in_journals, failed = _paid_in_journals(collection)
    status = collection.read_status()
    if status is not None and not {"started", "done", "found", "rollouts", "generated_tokens"} <= status.keys():
        status = None
    done = collection.num_trees()
    if status is not None and running:
        done = max(done, int(status["done"]))
    state = "running" if running else "finished" if done >= total else "stopped; its command goes on"
    yield f"{folder}: {done:,} of {total:,} problems ({done / total:.0%}), {state}"
    paid = _paid_in_shards(collection).plus(in_journals)
    tokens = f"{_many(paid.generated_tokens)} tokens generated, {_many(paid.prompt_tokens)} prompt tokens"
    yield f"so far       {tokens}, {paid.requests:,} requests"
    if paid.estimated_requests:
        yield f"             {paid.estimated_requests:,} requests have estimated tokens: the server did not count them"
    if (money := prices.of(paid.prompt_tokens, paid.generated_tokens)) is not None:
        yield f"cost so far  {money:,.2f}"
    if paid.failed_requests:
        yield f"failed       {paid.failed_requests:,} requests"
    yield from (f"             {line}" for line in failure_lines(failed))
    if status is not None and running:
        seconds = max(1e-3, time.time() - status["started"])
        speed = (
            f"{status['rollouts'] / seconds:,.1f} a second, {status['generated_tokens'] / seconds:,.0f} tokens a second"
        )
        yield f"this run     {status['rollouts']:,} rollouts in {duration(seconds)}: {speed}"
        new = status["done"] - status["found"]
        if new > 0:
            yield f"left         about {duration(seconds * (total - status['done']) / new)}"


def failed_draws(collection: Collection) -> Counter[str]:
    """Draws that came to nothing and were not made since, by what was said of them: a kind, a colon, the reason."""
    return _paid_in_journals(collection)[1]


def failure_lines(failed: Counter[str]) -> Iterator[str]:
    """A line a kind, with its most frequent reason."""
    by_kind: dict[str, Counter[str]] = {}
    for reason, count in failed.items():
        by_kind.setdefault(reason.partition(":")[0], Counter())[reason] += count
    for kind, reasons in sorted(by_kind.items()):
        yield f"{reasons.total():,} draws {kind}, most of them: {reasons.most_common(1)[0][0].partition(': ')[2]}"


def _paid_in_journals(collection: Collection) -> tuple[Usage, Counter[str]]:
    usage, failed = Usage(), Counter[str]()
    for shard in collection.journals():
        missing: dict[tuple[str, int], str] = {}
        for row in collection.read_journal(shard, repair=False):
            usage = usage.plus(row.usage)
            for rollout in row.rollouts:
                key = (row.problem_id, rollout.index)
                if row.failure and rollout.steps[-1].stop is StopReason.ERROR:
                    missing[key] = row.failure
                else:
                    missing.pop(key, None)
        failed.update(missing.values())
    return usage, failed


def _paid_in_shards(collection: Collection) -> Usage:
    """Of the shards without a journal; one that was kept has the same bills."""
    beside_journals = {collection.shard_path(shard) for shard in collection.journals()}
    usage = Usage()
    for path in collection.finished_shards():
        if path not in beside_journals:
            usage = usage.plus(_total(read_trees(path)))
    return usage


def _total(trees: Sequence[ReasoningTree] | Iterator[ReasoningTree]) -> Usage:
    total = Usage()
    for tree in trees:
        total = total.plus(tree.usage)
    return total


def _many(number: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.1f} {sign}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Like `3 h 20 min`, `4 min 10 s`, `12 s`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
