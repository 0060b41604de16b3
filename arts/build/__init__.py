"""From the names a user types to the objects they stand for. torch is imported only when a model is asked for."""

from arts.build.about import about
from arts.build.proposers import build_likelihood, build_proposer, proposer_folder
from arts.build.servers import Server, is_server, open_server, url_options
from arts.build.tasks import any_problem, build_checker, build_task, problem_texts
from arts.build.verifiers import (
    build_new_verifier,
    build_scorer,
    build_step_scorer,
    build_verifier,
    named_scorers,
    needs_torch,
    verifier_identity,
)

LOCAL_HINT = 'local models need torch: pip install "arts-llm[local]"'

__all__ = [
    "LOCAL_HINT",
    "Server",
    "about",
    "any_problem",
    "build_checker",
    "build_likelihood",
    "build_new_verifier",
    "build_proposer",
    "build_scorer",
    "build_step_scorer",
    "build_task",
    "build_verifier",
    "is_server",
    "named_scorers",
    "needs_torch",
    "open_server",
    "problem_texts",
    "proposer_folder",
    "url_options",
    "verifier_identity",
]
