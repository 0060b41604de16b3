"""Tasks and ways to check, by the names that users type."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from arts.build.servers import url_options
from arts.protocols import Split, Task
from arts.tree import Problem

if TYPE_CHECKING:
    from arts.tasks.checks import Checker


def build_task(name: str) -> Task:
    """The task that a user names.

    `countdown`, `countdown:5`              numbers to combine; 4 of them, or 3 to 6
    `toy`, `toy:3x3:rare`                   the enumerable task
    `FILE.jsonl`, `FILE.jsonl.gz`           problems with answers; options are fields of `JsonlSettings`
    `hub:OWNER/NAME`, `hub:FOLDER`          the same from the `datasets` library; fields of `HubSettings`
    `math`, `math500`, `gsm8k`, `aime24`, `amc23`   short for `hub:...` (`KNOWN_SETS` in `arts.tasks.rows`)
    `gym:NAME,NAME,...`                     tasks of reasoning-gym; fields of `GymSettings`

    Options follow a `?`, percent-encoded: `problems.jsonl?check=math&split=test`.
    """
    from arts.tasks.countdown import CountdownTask
    from arts.tasks.rows import KNOWN_SETS
    from arts.tasks.toy import ToyTask

    place, _, options = name.partition("?")
    kind, *arguments = name.split(":")
    if kind == "countdown" and (not arguments or (len(arguments) == 1 and arguments[0].isdecimal())):
        return CountdownTask(*map(int, arguments))
    if kind == "toy":
        shape = re.fullmatch(r"(\d)x(\d)(:rare)?", ":".join(arguments) or "3x3")
        if shape:
            return ToyTask(int(shape[1]), int(shape[2]), rare=bool(shape[3]))
    if name == "rollouts":
        from arts.tasks.rollouts import RolloutsTask

        return RolloutsTask()
    if place.endswith((".jsonl", ".jsonl.gz")) or kind == "hub":
        return _rows_task(name, place, options)
    if place in KNOWN_SETS:
        known, _, defaults = KNOWN_SETS[place].partition("?")
        return _rows_task(name, f"hub:{known}", f"{defaults}&{options}")
    if kind == "gym":
        from arts.tasks.gym import GymSettings, GymTask

        settings = GymSettings(**url_options(GymSettings, options, of=f"task {place}"))
        return GymTask(tuple(place.partition(":")[2].split(",")), settings, name=name)
    raise ValueError(
        f"unknown task {name!r}; tasks are 'countdown', 'countdown:N' with N from 3 to 6, "
        "'toy' or 'toy:ARITYxDEPTH[:rare]', a file of problems, 'FILE.jsonl' or 'FILE.jsonl.gz', "
        f"'hub:OWNER/NAME', {', '.join(map(repr, KNOWN_SETS))} and 'gym:NAME'"
    )


def _rows_task(name: str, place: str, options: str) -> Task:
    from arts.tasks.jsonl import HubSettings, JsonlSettings, JsonlTask
    from arts.tasks.rows import file_rows, hub_rows

    if place.startswith("hub:"):
        settings = HubSettings(**url_options(HubSettings, options, of=f"task {place}"))
        rows = hub_rows(place.removeprefix("hub:"), config=settings.config, rows=settings.rows)
        check_of: JsonlSettings = settings
    else:
        check_of = JsonlSettings(**url_options(JsonlSettings, options, of=f"task {place}"))
        rows = file_rows(Path(place))
    checker = build_checker(check_of.check, limit_s=check_of.check_seconds)
    return JsonlTask(rows, check_of, name=name, checker=checker)


def build_checker(name: str, *, limit_s: float = 10.0) -> "Checker":
    """`number`, `math`, `exact`, or `python:MODULE:FUNCTION`, which runs in a process of its own.

    Args:
        limit_s: processor seconds that a Python function may take for one solution.
    """
    from arts.functions import Predicate
    from arts.tasks.checks import Checker

    kind, _, place = name.partition(":")
    if kind != "python":
        return Checker(name)
    function = Predicate(place, limit_s=limit_s)
    function.start()
    return Checker(name, function)


def problem_texts(source: str) -> list[str]:
    """Texts of all problems of a task, or of a folder of trees. Raises ValueError for a task without an end."""
    from arts.store import open_collection

    if (Path(source) / "collection.json").is_file():
        problems = [tree.problem for tree in open_collection(Path(source)).trees()]
    else:
        task = build_task(source)
        if not hasattr(task, "all_problems"):
            raise ValueError(f"{source!r} has no end; name a file, a data set or a folder of trees")
        problems = task.all_problems()
    return [str(problem.metadata.get("problem", problem.prompt)) for problem in problems]


def any_problem(task: Task) -> Problem:
    """One of the task's problems, of the first split that has some."""
    for split in get_args(Split):
        for problem in task.problems(split, 0):
            return problem
    raise ValueError(f"task {task.name} has no problems")
