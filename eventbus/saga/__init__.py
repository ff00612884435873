"""Sagas: one business flow over several services, that ends done or undone."""

from eventbus.event import Undone
from eventbus.saga.declaring import cancels_on, migrates, starts_on
from eventbus.saga.definition import Resend, Stash
from eventbus.saga.steps import (
    CallStep,
    LocalStep,
    Saga,
    Step,
    call_step,
    local_step,
    step,
    wait_step,
)
from eventbus.saga.work import CallContext

__all__ = [
    "CallContext",
    "CallStep",
    "LocalStep",
    "Resend",
    "Saga",
    "Stash",
    "Step",
    "Undone",
    "call_step",
    "cancels_on",
    "local_step",
    "migrates",
    "starts_on",
    "step",
    "wait_step",
]
