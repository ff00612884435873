"""A handler of the same group and name as another one."""

from eventbus import subscribe


@subscribe("depot.counted", group="watch")
async def count(event: object) -> None:
    pass
