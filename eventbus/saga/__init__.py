"""Sagas: one business flow over several services, that ends done or undone."""

from eventbus.event import Undone
from eventbus.saga.actions import (
    Action,
    Actions,
    Cancel,
    Complete,
    Correlate,
    Deadline,
    Do,
    Publish,
    Timer,
)
from eventbus.saga.declaring import cancels_on, migrates, starts_on
from eventbus.saga.definition import Resend, Stash
from eventbus.saga.process import Process, State, initial, on, undo
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
from eventbus.storage.sagas import SagaQuery

__all__ = [
    "Action",
    "Actions",
    "CallContext",
    "CallStep",
    "Cancel",
    "Complete",
    "Correlate",
    "Deadline",
    "Do",
    "LocalStep",
    "Process",
    "Publish",
    "Resend",
    "Saga",
    "SagaQuery",
    "Stash",
    "State",
    "Step",
    "Timer",
    "Undone",
    "call_step",
    "cancels_on",
    "initial",
    "local_step",
    "migrates",
    "on",
    "starts_on",
    "step",
    "undo",
    "wait_step",
]
