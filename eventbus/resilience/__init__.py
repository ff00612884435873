"""Tools against failure: retries, a circuit breaker, a token bucket."""

from eventbus.resilience.circuit_breaker import CircuitBreaker
from eventbus.resilience.rate_limit import RateLimit
from eventbus.resilience.retry import (
    Verdict,
    attempts_in_place,
    failure_of,
    redact,
    told,
    verdict_of,
    wait_after,
)
from eventbus.resilience.seldom import SeldomLog

__all__ = [
    "CircuitBreaker",
    "RateLimit",
    "SeldomLog",
    "Verdict",
    "attempts_in_place",
    "failure_of",
    "redact",
    "told",
    "verdict_of",
    "wait_after",
]
