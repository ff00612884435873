"""What every store says of saga rows that cannot be written: one text for all of them."""

from collections.abc import Collection, Sequence
from uuid import UUID

from eventbus.errors import ConcurrencyError, ConfigurationError
from eventbus.message import own_key
from eventbus.storage.parking import Failure, Parked
from eventbus.storage.sagas import DefinitionRow, EffectEnd, SagaChange, Stashed


def not_locked(changes: Sequence[SagaChange], held: Collection[UUID]) -> ConcurrencyError:
    """EB7030: some of the changes are not of what was locked, nothing was written."""
    missed = [one for one in changes if one.saga_id not in held]
    return ConcurrencyError(
        "EB7030",
        f"{len(missed)} sagas are not at the version that was locked",
        where=", ".join(f"{one.saga_id} at {one.was}" for one in missed[:5]),
        why="a path changed them without their lock, or they were never started",
        next="roll back and let the inputs come again; then report it: it is a bug",
    )


def another_digest(one: DefinitionRow) -> ConfigurationError:
    """EB7031: a known version with another digest, nothing was written."""
    return ConfigurationError(
        "EB7031",
        f"version {one.version} of the saga {one.saga!r} was another one",
        where=f"saga {one.saga}",
        why="its steps or messages were changed while open sagas may be pinned to the version",
        next="raise the version, and hand over the old class while sagas of it are open",
    )


def not_ours(effects: Sequence[EffectEnd], held: Collection[UUID]) -> ConcurrencyError:
    """EB7033: some of the effects are not ours to end, nothing was written."""
    missed = [one for one in effects if one.effect_id not in held]
    return ConcurrencyError(
        "EB7033",
        f"{len(missed)} effects are not ours to end",
        where=", ".join(f"{one.effect_id} as {one.state}" for one in missed[:5]),
        why="another worker took them over, or they have ended",
        next="roll back and send no reply: the other worker does, or did",
    )


def expired(one: Stashed) -> Parked:
    """EB7032: a dead letter under a key of its own, which holds no later input of its saga."""
    what = f"no saga {one.key.saga!r} came for {one.key.name or 'the business key'}"
    return Parked(
        message=one.message,
        key=own_key(one.message),
        attempts=0,
        delay=None,
        origin=f"stash:{one.key.saga}",
        failure=Failure(
            reason="exhausted",
            code="EB7032",
            type="StashExpired",
            text=f"{what} {one.key.value!r} in time",
            fingerprint=f"StashExpired@{one.key.saga}",
        ),
    )
