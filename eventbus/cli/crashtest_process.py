"""A process of `eventbus crashtest --real`: `python -m eventbus.cli.crashtest_process`."""

import asyncio
import logging
import sys


def main() -> None:
    """Read a letter, import app and scenario, live; whatever fails is the answer."""
    from eventbus.cli.locate import locate, place_of
    from eventbus.cli.scenario_file import scenario_in
    from eventbus.errors import EventBusError
    from eventbus.testing.crashtest import process
    from eventbus.testing.crashtest.ledger import Ledger
    from eventbus.testing.crashtest.letters import Letter
    from eventbus.testing.crashtest.life import Subject

    letter = Letter.read(sys.stdin.buffer.read())
    logging.basicConfig(level=logging.WARNING)

    async def work() -> None:
        app, found = locate(letter.app), scenario_in(letter.scenario)
        subject = Subject(
            app=app,
            scenario=found.scenario,
            prepare=found.prepare,
            checks=found.invariants,
            ledger=await Ledger.of(app),
        )
        await process.live(subject, letter)

    try:
        asyncio.run(work())
    except EventBusError as error:
        process.failed(letter, f"{error.code} {error.what}: {error.why}")
        raise
    except Exception as error:  # whatever the user's scenario does
        process.failed(letter, f"{type(error).__name__}: {error} ({place_of(error)})")
        raise


if __name__ == "__main__":
    main()
