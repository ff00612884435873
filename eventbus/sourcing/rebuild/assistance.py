"""Helping with the scan of a rebuild that another process leads."""

import asyncio

from eventbus.codec import Registry
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.marks import marks_of
from eventbus.sourcing.rebuild.options import Options
from eventbus.sourcing.rebuild.parts import Parts, scan_of
from eventbus.sourcing.rebuild.plan import code_of
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage
from eventbus.storage.projections import ProjectionVersion

BEGIN_SECONDS = 30.0  # so long it is waited for that the rebuild begins
LOOK_SECONDS = 0.05  # who leads works alone meanwhile


async def assist(
    storage: Storage,
    definition: Definition,
    registry: Registry,
    *,
    encode: Encode,
    options: Options,
) -> int:
    """Copy parts until all are copied, by whomever; how many rows they have.

    Args:
        storage: entered.
        definition: the same code as that of who leads.
        registry: decodes what is recorded.
        encode: not used for effects: they are off.
        options: the same as theirs.

    Raises:
        ProjectionError: EB6010, nobody rebuilds this with this code; EB6009, the log cannot be
            read by it.
    """
    if not definition.is_shared:
        raise refusals.nothing(definition.name, "one process replays it: by_stream is not declared")
    try:
        async with asyncio.timeout(BEGIN_SECONDS):
            version = await _begun(storage, definition, options)
            while version is None:
                await asyncio.sleep(LOOK_SECONDS)
                version = await _begun(storage, definition, options)
    except TimeoutError:
        raise refusals.nothing(
            definition.name, "nobody rebuilds it with this code and these options"
        ) from None
    scan = scan_of(storage, definition, registry, version, encode=encode, options=options)
    return await Parts(storage, scan).work(to_the_end=True)


async def _begun(
    storage: Storage, definition: Definition, options: Options
) -> ProjectionVersion | None:
    code = code_of(definition, options)
    async with storage.transaction() as tx:
        for one in await tx.projections.versions(definition.name):
            ours = one.status == "building" and not one.served and one.code_hash == code
            if ours and one.built_to and await tx.checkpoints.positions(marks_of(one)):
                return one
    return None
