"""Conversations as problems: nothing of them is lost, equal ones are equal, and local models read their texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.lm.load import load_causal_lm
from arts.proposers.capabilities import chat_messages
from arts.serve.scores import split_steps
from arts.tasks.conversation import ConversationTask, conversation
from arts.tree import Problem, text_of

USER = {"role": "user", "content": "What is 2 + 2?"}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "4"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And "}, {"type": "image_url"}, {"type": "text", "text": "3?"}],
    },
]


def test_a_single_message_is_its_own_prompt_and_several_name_who_spoke() -> None:
    assert conversation([USER]).prompt == "What is 2 + 2?"
    expected = "system: Be brief.\n\nuser: What is 2 + 2?\n\nassistant: 4\n\nuser: And 3?"
    assert conversation(TURNS).prompt == expected
    assert conversation(TURNS).messages == TURNS


def test_equal_conversations_are_one_problem_and_others_are_not() -> None:
    assert conversation(TURNS) == conversation([dict(one) for one in TURNS])
    ids = {conversation(TURNS).id, conversation(TURNS[1:]).id, conversation(TURNS, {"temperature": 0.5}).id}
    assert len(ids) == 3


def test_a_problem_without_messages_is_the_users_message() -> None:
    assert Problem("1", "3 5 > 8").messages == [{"role": "user", "content": "3 5 > 8"}]


def test_the_proposers_system_message_stands_in_front_where_there_is_none() -> None:
    assert chat_messages(conversation(TURNS), "Shout.") == TURNS
    assert chat_messages(conversation([USER]), "Shout.") == [{"role": "system", "content": "Shout."}, USER]
    assert chat_messages(conversation([USER]), None) == [USER]


@pytest.mark.parametrize(("content", "text"), [(None, ""), ("a", "a"), ([], ""), (TURNS[3]["content"], "And 3?")])
def test_text_of_content(content: Any, text: str) -> None:
    assert text_of(content) == text


def test_local_models_read_the_texts_of_all_messages(tiny_folder: Callable[[str], Path]) -> None:
    model = load_causal_lm(tiny_folder("gpt2"))  # no chat template
    assert model.text.prompt_ids(TURNS) == model.tokenizer.encode("Be brief.\n\nWhat is 2 + 2?\n\n4\n\nAnd 3?")
    assert model.text.prompt_ids(Problem("1", "abc").messages) == model.prompt_ids("abc")


def test_votes_are_counted_by_the_marked_answer_or_the_last_line() -> None:
    task = ConversationTask()
    problem = task.parse("What is 2 + 2?")
    judge = task.judge
    assert judge(problem, "so\n\nThe answer is \\boxed{4}.").answer == "4" == judge(problem, "Hm.\n4").answer
    assert judge(problem, " ").answer is None


@pytest.mark.parametrize("options", [{"step_separator": ""}, {"max_new_tokens": 0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step separator is empty|max_new_tokens is 0"):
        ConversationTask(**options)


@given(text=st.text(alphabet="ab;\n ", max_size=30), separator=st.sampled_from([";", "\n\n"]))
def test_texts_are_cut_behind_separators_and_nothing_is_lost(text: str, separator: str) -> None:
    steps = split_steps(text, separator)
    assert "".join(steps) == text
    for step in steps[:-1]:
        assert step.endswith(separator) and step.replace(separator, "").strip()
        assert separator not in step.removesuffix(separator).lstrip(f"{separator} \n")


def test_cutting_takes_time_in_proportion_to_the_text() -> None:
    assert split_steps(";" * 10**6, ";") == [";" * 10**6]
    assert len(split_steps("a;" * 10**5, ";")) == 10**5
