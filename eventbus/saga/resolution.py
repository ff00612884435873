"""Finding out: wait until it is known what became of a step, then go on or turn back."""

from eventbus.saga import compensation
from eventbus.saga.draft import Draft
from eventbus.saga.forward import doubt, refusal
from eventbus.saga.sending import passed_pivot
from eventbus.saga.step_log import note_of


def onward(draft: Draft) -> bool:
    """Whether the status changed."""
    if not passed_pivot(draft):
        why = draft.intent or refusal(draft)
        if why is not None:
            return compensation.turn_back(draft, why)
        unknown = [row for row in draft.log.forwards if row.status == "unknown"]
        for row in unknown:
            if not note_of(row).asked and doubt(draft, row):  # a neighbour of the one that is asked
                return True
        if unknown:
            return False
    draft.status = "running"
    return True
