"""Every mutant of sealing and of the keyring turns the test red that is named for it."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from eventbus import keyring, personal
from eventbus.keyring import Keyring
from eventbus.personal import Opening
from tests.faults.seen import seen
from tests.faults.test_mutants_storage import SEEN
from tests.integration.personal import test_keys
from tests.unit.words import test_personal

KEEP, READ = Keyring._keep, Opening.read

MUTANTS: list[tuple[str, Any, str, Any, Callable[[], Any]]] = [
    (
        "a key is kept that may yet be rolled back",
        Keyring,
        "_keep",
        lambda self, rows, before, alone=False: KEEP(self, rows, before, alone=True),
        test_keys.test_a_key_of_an_open_transaction_is_not_kept,
    ),
    (
        "keys are kept for ever",
        keyring,
        "KEPT_SECONDS",
        1e9,
        test_keys.test_a_key_is_kept_for_half_a_minute,
    ),
    (
        "who forgets keeps the key",
        Keyring,
        "forget",
        lambda self, subject: None,
        test_keys.test_who_forgets_lets_go_at_once,
    ),
    (
        "nobody looks whose value it is",
        Opening,
        "read",
        lambda self, token, subject=None: READ(self, token),
        test_personal.test_a_value_that_was_sealed_for_somebody_else_is_refused,
    ),
    (
        "values are not sealed",
        personal,
        "seal",
        lambda key, plain: plain.decode(),
        test_personal.test_what_is_sealed_reads_as_it_was_and_stands_nowhere,
    ),
    (
        "failures quote what was read",
        personal,
        "_texts",
        lambda value: iter(()),
        test_personal.test_texts_that_were_read_are_taken_out_of_failures,
    ),
]


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "test"),
    [each[1:] for each in MUTANTS],
    ids=[each[0] for each in MUTANTS],
)
async def test_the_test_sees_the_mutant(
    owner: Any, name: str, mutant: Any, test: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await _run(test)
    monkeypatch.setattr(owner, name, mutant)
    with seen(*SEEN):
        await _run(test)


async def _run(test: Callable[[], Any]) -> None:
    done = test()
    if inspect.isawaitable(done):
        await done
