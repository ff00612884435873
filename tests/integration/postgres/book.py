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
        """A business row and a message with each number, until told to stop.

        What became of an unknown commit is asked meanwhile: of eight writers that all wait for a
        frozen server's COMMIT, none would be told anything more.
        """
        number = first
        async with asyncio.TaskGroup() as questions:
            while not self.stop.is_set():
                number += 1
                try:
                    async with storage.transaction() as tx:
                        await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", number)
                        await tx.outbox.add([some_message(number, key=str(first))])
                except CommitUnknownError as error:
                    self.unknown += 1
                    self.told += 1
                    questions.create_task(self._ask(error, number), name=f"ask:{number}")
                except StorageError:
                    self.told += 1
                    self.rolled_back.add(number)
                    await asyncio.sleep(0.01)
                else:
                    self.committed.add(number)

    async def _ask(self, error: CommitUnknownError, number: int) -> None:
        kept = await became_of(error) == "committed"
        (self.committed if kept else self.rolled_back).add(number)


async def became_of(error: CommitUnknownError) -> str:
    """Asked until it is told; the caller ends what goes on for too long.

    A frozen server answers nobody, and one that comes back may take longer than one question.
    """
    answer = await error.resolve()
    while answer == "unknown":
        answer = await error.resolve()
    return answer
