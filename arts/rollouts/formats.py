"""The formats of rollout files, each told by the fields of its rows. One function a format: a row in, a `Record` out.

`samples` is our own, documented in docs/import.md; the others are those of public files. A row is what a line of a
JSONL file holds, or an element of the list that a JSON file holds. Knows no file.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from arts.rollouts.records import RIGHT, UNNAMED, Record, Sample
from arts.tasks.answers import find_answer

Row = Mapping[str, Any]
GROUPS = ("subject", "level", "task", "dataset", "category")
"""Fields that tables group problems by."""


class Format(NamedTuple):
    """A format, and the fields that its rows are told by."""

    name: str
    fields: frozenset[str]
    read: Callable[[Row], Record]


def read_row(row: object) -> tuple[str, Record]:
    """Name of the row's format, and what it says.

    Raises:
        ValueError: it is of no known format, or lacks something; says what.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is {_kind(row)}; it must be an object")
    for one in FORMATS:
        if one.fields <= row.keys():
            return one.name, one.read(row)
    known = "; ".join(f"{one.name}: {', '.join(sorted(one.fields))}" for one in FORMATS)
    raise ValueError(f"fields {', '.join(sorted(row)) or 'none'} are those of no known format ({known})")


# --- our own ----------------------------------------------------------------------------------------------------------


def _samples(row: Row) -> Record:
    found = _list(row, "samples")
    if not found:
        raise ValueError("no samples")
    return _record(row, [_sample(one, place) for place, one in enumerate(found)])


def _flat(row: Row) -> Record:
    """One sample a row; rows of a problem are put together by its id."""
    return _record(row, [_sample(row, 0, answer_field="model_answer")])


def _sample(row: object, place: int, answer_field: str = "answer") -> Sample:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise ValueError(f"sample {place} has no `text`")
    scores = _first(row, "step_scores") or ()
    if not isinstance(scores, Sequence) or isinstance(scores, str):
        raise ValueError(f"step_scores of sample {place} is {_kind(scores)}; it must be a list")
    answer = row.get(answer_field)
    return Sample(
        text=row["text"],
        policy=_policy(row),
        answer=None if answer is None else str(answer),
        correct=_label(row, place),
        steps=tuple(map(str, _first(row, "steps") or ())),
        step_scores=tuple(_number(score, "step score") for score in scores),
        is_finished=row.get("finished") not in (False, 0) and row.get("finish_reason") != "length",
    )


def _policy(row: Row) -> str:
    found = _first(row, "policy", "model")
    return UNNAMED if found is None else str(found)


def _label(row: Row, place: int) -> bool | None:
    """Right or wrong as the file says, by `correct` or by a score of 0 to 1."""
    correct, score = row.get("correct"), row.get("score")
    if correct is not None:
        if not isinstance(correct, bool) and correct not in (0, 1):
            raise ValueError(f"`correct` of sample {place} is {correct!r}; it must be true or false")
        return bool(correct)
    return None if score is None else _number(score, f"score of sample {place}") >= RIGHT


def _record(row: Row, samples: Sequence[Sample], **more: Any) -> Record:
    prompt = _first(row, "problem", "question")
    if not isinstance(prompt, str):
        raise ValueError("no `problem`")
    named = _first(row, "problem_id", "unique_id", "id")
    gold = _first(row, "answer", "expected_answer")
    return Record(
        problem_id=prompt if named is None else str(named),
        prompt=prompt,
        gold=None if gold is None else str(gold),
        metadata={name: row[name] for name in GROUPS if row.get(name) is not None},
        samples=tuple(samples),
        **more,
    )


# --- public files -----------------------------------------------------------------------------------------------------


def _completions(row: Row) -> Record:
    """Completions, and scores of a process reward model: one for each step that blank lines make (search-and-learn)."""
    texts, scores = _list(row, "completions"), _list(row, "scores")
    if len(texts) != len(scores):
        raise ValueError(f"{len(texts)} completions, and scores of {len(scores)}")
    samples = [
        Sample(text=str(text), step_scores=tuple(_number(one, "step score") for one in own))
        for text, own in zip(texts, scores, strict=True)
    ]
    return _record(row, samples)


def _responses(row: Row) -> Record:
    """Responses with extracted answers and the last score of a process reward model."""
    texts, answers, scores = (_list(row, name) for name in ("responses", "extracted", "prm_last"))
    if not len(texts) == len(answers) == len(scores):
        raise ValueError(f"{len(texts)} responses, {len(answers)} extracted answers and {len(scores)} scores")
    return _record(
        row,
        [
            Sample(
                text=str(text),
                answer=None if answer is None else str(answer),
                step_scores=(_number(score, "prm_last"),),
            )
            for text, answer, score in zip(texts, answers, scores, strict=True)
        ],
    )


def _reasoning_gym(row: Row) -> Record:
    """A result of reasoning-gym's evaluation: completions with an answer and a score each."""
    samples = []
    for place, one in enumerate(_list(row, "completions")):
        if not isinstance(one, Mapping) or not isinstance(one.get("full_model_response"), str):
            raise ValueError(f"completion {place} has no full_model_response")
        answer = one.get("model_answer")
        samples.append(
            Sample(
                text=one["full_model_response"],
                policy=_policy(row),
                answer=None if answer is None else str(answer),
                correct=_label(one, place),
            )
        )
    return _record(row, samples)


def _gsm8k_systems(row: Row) -> Record:
    """GSM8K with the solutions of several systems; those called `..._verification` picked one of a hundred draws."""
    systems = {
        name: value
        for name, value in row.items()
        if isinstance(value, Mapping) and {"solution", "is_correct"} <= set(value)
    }
    if not systems:
        raise ValueError("no system with `solution` and `is_correct`")
    samples = [
        Sample(
            text=str(value["solution"]),
            policy=name,
            answer=_answer_behind_a(str(value["solution"])),
            correct=bool(value["is_correct"]),
        )
        for name, value in systems.items()
    ]
    gold = _answer_behind_a(str(row["ground_truth"]))
    selected = frozenset(name for name in systems if name.endswith("_verification"))
    return Record(
        problem_id=str(row["question"]),
        prompt=str(row["question"]),
        gold=gold,
        samples=tuple(samples),
        selected=selected,
    )


def _answer_behind_a(solution: str) -> str | None:
    found = re.findall(r"^A: *(.*)$", solution, re.MULTILINE)
    return found[-1].strip() or None if found else find_answer(solution)


def _game24_chains(row: Row) -> Record:
    """Game of 24: sampled chains of thought, and whether each is right (tree-of-thought-llm)."""
    texts, infos = _list(row, "ys"), _list(row, "infos")
    if len(texts) != len(infos):
        raise ValueError(f"{len(texts)} samples, and labels of {len(infos)}")
    samples = [
        Sample(text=str(text), answer=_answer_24(str(text)), correct=_game24_label(info))
        for text, info in zip(texts, infos, strict=True)
    ]
    return _game24(row, samples, _numbers_of_first_steps(samples))


def _game24_search(row: Row) -> Record:
    """Game of 24: a breadth-first search that keeps five of the paths it looked at, with the value of each."""
    values: dict[str, float] = {}
    for level in _list(row, "steps"):
        values.update(
            zip(
                map(str, _list(level, "new_ys")), (_number(one, "value") for one in _list(level, "values")), strict=True
            )
        )
    labels = {str(text): _game24_label(info) for text, info in zip(_list(row, "ys"), _list(row, "infos"), strict=True)}
    kept = list(map(str, _list(row, "ys")))
    samples = [_searched(text, values, labels[text]) for text in kept]
    inner = {start for text in values for start in _starts(text)[:-1]}
    samples += [_searched(text, values, None) for text in values if text not in labels and text not in inner]
    numbers = str(_list(row, "steps")[0]["x"])
    return _game24(row, samples, numbers, score_kind="log_strength")


def _searched(text: str, values: Mapping[str, float], correct: bool | None) -> Sample:
    starts = _starts(text)
    steps = tuple(end.removeprefix(start) for start, end in zip(("", *starts), starts, strict=False))
    scores = tuple(values.get(start, 0.0) for start in starts)
    is_kept = correct is not None
    return Sample(text=text, steps=steps, step_scores=scores, answer=_answer_24(text), correct=correct, is_draw=is_kept)


def _starts(text: str) -> list[str]:
    """The text up to and with each of its lines."""
    lines = text.splitlines(keepends=True)
    return ["".join(lines[: place + 1]) for place in range(len(lines))]


def _game24_label(info: object) -> bool:
    if not isinstance(info, Mapping) or "r" not in info:
        raise ValueError("a label without `r`")
    return _number(info["r"], "r") >= RIGHT


def _answer_24(text: str) -> str | None:
    found = re.findall(r"^Answer: *(.*)$", text, re.MULTILINE)
    return found[-1].strip() or None if found else None


def _numbers_of_first_steps(samples: Sequence[Sample]) -> str:
    """The four numbers: the two that a first step uses, and those that it says are left, less its result.

    Some samples misread them, so that what most of them say counts.
    """
    said: Counter[str] = Counter()
    for sample in samples:
        step = re.search(r"(\d+) [-+*/] (\d+) = (-?[\d.]+) \(left: ([-\d. ]+)\)", sample.text)
        left = step[4].split() if step else []
        if step and step[3] in left:
            left.remove(step[3])
            if len(left) == 2 and all(one.isdecimal() for one in left):
                said[" ".join(sorted([step[1], step[2], *left], key=int))] += 1
    if not said:
        raise ValueError("no first step tells the four numbers")
    return said.most_common(1)[0][0]


def _game24(row: Row, samples: Sequence[Sample], numbers: str, **more: Any) -> Record:
    prompt = f"Use the numbers {numbers} and + - * / to reach 24."
    return Record(
        problem_id=f"game24 {row['idx']}",
        prompt=prompt,
        gold="24",
        metadata={"numbers": numbers},
        samples=tuple(samples),
        **more,
    )


def _first(row: Row, *names: str) -> Any:
    """The first of these fields that holds something: files of tables have null where there is nothing."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, list):
        raise ValueError(f"`{name}` is {_kind(value)}; it must be a list")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is {value!r}; it must be a number")
    return float(value)


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def rows_of(document: object) -> Iterator[object]:
    """The rows of a whole JSON file: a list, or reasoning-gym's categories of data sets of results."""
    if isinstance(document, list):
        yield from document
    elif isinstance(document, Mapping) and isinstance(document.get("categories"), list):
        meta = document.get("metadata")
        policy = str(meta.get("model", UNNAMED)).rpartition("/")[2] if isinstance(meta, Mapping) else UNNAMED
        for category in document["categories"]:
            for dataset in _list(category, "datasets"):
                yield from ({"policy": policy, **row} for row in _list(dataset, "results"))
    elif isinstance(document, Mapping):
        yield document
    else:
        raise ValueError(f"the file holds {_kind(document)}; it must be a list of rows or one object a line")


FORMATS = (
    Format("samples", frozenset({"samples"}), _samples),
    Format("game24 search", frozenset({"idx", "steps", "ys", "infos"}), _game24_search),
    Format("game24 chains", frozenset({"idx", "ys", "infos"}), _game24_chains),
    Format("gsm8k systems", frozenset({"question", "ground_truth"}), _gsm8k_systems),
    Format("completions with step scores", frozenset({"problem", "completions", "scores"}), _completions),
    Format("responses with a score", frozenset({"problem", "responses", "extracted", "prm_last"}), _responses),
    Format("reasoning-gym results", frozenset({"question", "completions"}), _reasoning_gym),
    Format("one sample a row", frozenset({"problem", "text"}), _flat),
)
