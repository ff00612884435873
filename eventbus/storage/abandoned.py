"""Why a transaction that somebody else gave up keeps nothing: one text for all stores."""

from eventbus.errors import StorageError


def abandoned() -> StorageError:
    """EB5004, as the first error of a transaction that was abandoned."""
    return StorageError(
        "EB5004",
        "the transaction was given up",
        where="Transaction.abandon(), called by another task",
        why="its handler did not end when it was cancelled, or lost its messages to another worker",
        next="let CancelledError leave the handler; nothing it writes from now on is kept",
    )
