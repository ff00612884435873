"""Writers that go on whatever the server does, and what they were told."""

import asyncio

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import some_message


class Book:
    """What writers were told."""

    def __init__(self) -> None:
        self.committed: set[int] = set()
        self.rolled_back: set[int] = set()
        self.unknown = 0
        self.told = 0  # errors, at once: what an unknown commit came to is asked later
        self.stop = asyncio.Event()

    async def write(self, storage: PostgresStorage, table: str, first: int) -> None:
        """A business row and a message with each number, until told to stop."""
        number = first
        while not self.stop.is_set():
            number += 1
            try:
                async with storage.transaction() as tx:
                    await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", number)
                    await tx.outbox.add([some_message(number, key=str(first))])
            except CommitUnknownError as error:
                self.unknown += 1
                self.told += 1
                kept = await became_of(error) == "committed"
                (self.committed if kept else self.rolled_back).add(number)
            except StorageError:
                self.told += 1
                self.rolled_back.add(number)
                await asyncio.sleep(0.01)
            else:
                self.committed.add(number)


async def became_of(error: CommitUnknownError) -> str:
    """Asked again: one question ends after 10 s, and a server may take longer to come back."""
    answers = [await error.resolve()]
    while answers[-1] == "unknown" and len(answers) < 9:
        answers.append(await error.resolve())
    assert answers[-1] != "unknown", answers
    return answers[-1]
