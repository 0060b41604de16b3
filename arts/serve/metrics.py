"""Counts and times of one server, in Prometheus' text form. Labels are few and known beforehand: no text of a user."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Of one application; two in one process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("arts_requests", "Requests answered", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "arts_request_seconds", "Time until the last byte", ["route"], buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(
            "arts_tokens", "Tokens of searches: prompt, generated, verifier", ["kind"], registry=registry
        )
        self.draws = Counter("arts_draws", "Draws of searches", registry=registry)
        self.searches = Counter(
            "arts_searches", "Searches by strategy and why they stopped", ["strategy", "stopped"], registry=registry
        )
        self.failed_draws = Counter("arts_failed_draws", "Draws the model server failed at", registry=registry)
        self.running = Gauge("arts_searches_running", "Searches that run now", registry=registry)
        self.waiting = Gauge("arts_requests_waiting", "Requests in line", registry=registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
