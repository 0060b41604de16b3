"""What a search takes for a reply of the proposer or verifier; of anything else it says what is wrong with it."""

import math

from arts.protocols import Reply, Request, ScoreReply, ScoreRequest


def checked_draws(request: Request, reply: object) -> Reply:
    """The reply itself, where it has one draw a seed, each of one step where one was asked for."""
    if not isinstance(reply, Reply):
        raise ValueError(f"{type(reply).__name__} in reply to a Request; draws were asked for, so give a Reply")
    if len(reply.draws) != len(request.seeds):
        raise ValueError(
            f"{len(reply.draws)} draws for {len(request.seeds)} seeds of problem {request.problem.id!r}; give one a "
            "seed, and a step with stop reason ERROR where it failed"
        )
    if not request.whole and (longest := max(map(len, reply.draws))) > 1:
        raise ValueError(f"a draw of {longest} steps where one was asked for, of problem {request.problem.id!r}")
    return reply


def checked_scores(request: ScoreRequest, reply: object) -> ScoreReply:
    """The reply itself, where it has one finite score a step."""
    if not isinstance(reply, ScoreReply):
        raise ValueError(f"{type(reply).__name__} in reply to a ScoreRequest; scores were asked for: give a ScoreReply")
    if len(reply.log_scores) != request.num_new:
        raise ValueError(
            f"{len(reply.log_scores)} scores for {request.num_new} steps of problem {request.problem.id!r}; give one "
            "a step"
        )
    for score in reply.log_scores:
        if not math.isfinite(score):
            raise ValueError(f"a log score of {score} for problem {request.problem.id!r}; it must be a finite number")
    return reply
