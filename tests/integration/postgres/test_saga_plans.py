"""Statements of sagas go by their indexes, with 100,000 sagas, whatever the statistics say."""

from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from eventbus.postgres import (
    PostgresStorage,
    saga_calls,
    saga_effects,
    saga_figures,
    saga_instances,
    saga_save,
    saga_stash,
    saga_sweep,
    saga_timers,
)
from tests.conformance.postgres import database, entered
from tests.integration.postgres.plans import Plan, forget_the_rows, wrong_plans

ROWS = 100_000
ID = "ARRAY[gen_random_uuid()]"
KEY = "ARRAY['s'], ARRAY['n'], ARRAY['v']"
DEFINITIONS = "ARRAY['s', 'other'], ARRAY[1, 1]"
LIMIT = {"limit": 100}
SAVED = [
    f"{{schema}}.{name}[]"
    for name in (
        "changed_saga",
        "changed_step",
        "changed_timer",
        "asked_call",
        "added_correlation",
        "journal_entry",
    )
]

PLANS: Mapping[str, Plan] = {
    "find": (
        *(saga_instances._FIND, {}, "text[], text[], text[]", KEY, "work"),
        {"saga_key", "saga_correlation_pkey"},
    ),
    "lock": (saga_instances._LOCK, {}, "uuid[]", ID, "work", {"saga_pkey"}),
    "steps": (saga_instances._STEPS, {}, "uuid[]", ID, "work", {"saga_step_pkey"}),
    "save": (
        saga_save._SAVE,
        {},
        ", ".join(SAVED),
        ", ".join(f"ARRAY[NULL]::{rows}" for rows in SAVED),
        "work",
        {"saga_pkey", "saga_timer_pkey", "saga_call_saga"},
    ),
    "lock_due": (
        *(saga_timers._LOCK_DUE, LIMIT, "text[], int[]", DEFINITIONS, "work"),
        {"saga_timer_due", "saga_pkey"},
    ),
    "lock_due, fire": (saga_timers._FIRE, {}, "uuid[]", ID, "work", {"saga_timer_pkey"}),
    "next_due": (
        *(saga_timers._NEXT, {}, "text[], int[]", DEFINITIONS, "work"),
        {"saga_timer_due"},
    ),
    "drain": (
        *(saga_stash._DRAIN, {}, "text[], text[], text[]", KEY, "work"),
        {"saga_stash_saga_type_name_value_message_key", "saga_stash_pkey"},
    ),
    "expire": (saga_stash._EXPIRE, LIMIT, "", "", "work", {"saga_stash_expires"}),
    "claim_calls": (
        saga_calls._CLAIM,
        LIMIT,
        "text[], int[], interval, text",
        f"{DEFINITIONS}, '30 s', 'w'",
        "work",
        {"saga_call_due", "saga_call_pkey"},
    ),
    "renew_calls": (
        saga_calls._RENEW,
        {},
        "uuid[], bigint[], interval",
        f"{ID}, ARRAY[1]::bigint[], '30 s'",
        "work",
        {"saga_call_pkey"},
    ),
    "finish_calls": (
        *(saga_calls._FINISH, {}, "uuid[], bigint[]", f"{ID}, ARRAY[1]::bigint[]", "work"),
        {"saga_call_pkey"},
    ),
    "begin_effect, stands": (
        *(saga_effects._STANDS, {}, "uuid[]", ID, "work"),
        {"saga_effect_pkey"},
    ),
    "finish_effect": (
        saga_effects._FINISH,
        {},
        "{schema}.ended_effect[]",
        "ARRAY[(gen_random_uuid(), 'done', 't', NULL, 0)]::{schema}.ended_effect[]",
        "work",
        {"saga_effect_pkey"},
    ),
    "forget_effect": (saga_effects._FORGET, {}, "uuid[]", ID, "work", {"saga_effect_pkey"}),
    "sweep, held": (
        *(saga_sweep._HELD, {}, "text[], text[], text"),
        "ARRAY['order'], ARRAY['a'], '#held'",
        "work",
        {"saga_stash_saga_type_name_value_message_key"},
    ),
    "sweep": (saga_sweep._OLD, LIMIT, "interval", "'30 days'", "work", {"saga_finished"}),
    "sweep, effects": (
        *(saga_sweep._EFFECTS, LIMIT, "interval", "'90 days'", "work"),
        {"saga_effect_created", "saga_effect_pkey"},
    ),
    "figures, open": (saga_figures._OPEN, {}, "", "", "control", {"saga_open"}),
    "figures, stashed": (saga_figures._STASHED, {}, "", "", "control", {"saga_stash_pkey"}),
    "figures, late": (saga_figures._LATE, {}, "", "", "control", {"saga_timer_due"}),
}
LARGE = {
    *("saga", "saga_step", "saga_timer", "saga_call", "saga_correlation", "saga_stash"),
    "saga_effect",
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["analysed", "never analysed", "analysed when empty"])
async def filled(server: str, request: pytest.FixtureRequest) -> AsyncIterator[PostgresStorage]:
    schema = "plans_" + request.param.replace(" ", "_")
    async with entered(server, schema=schema) as storage:
        async with storage.pools.connecting() as connection:
            await connection.execute(
                f"SET search_path = {schema}; SET statement_timeout = '60s'; {FILL}", timeout=60
            )
            if request.param == "analysed":
                await connection.execute("ANALYZE", timeout=60)
            elif request.param == "analysed when empty":
                await forget_the_rows(connection, schema)
            await connection.execute("RESET search_path; RESET statement_timeout")
        yield storage


async def test_hot_statements_go_by_their_indexes(filled: PostgresStorage) -> None:
    assert await wrong_plans(filled, PLANS, LARGE) == {}


def test_every_statement_has_its_plan_here_or_only_inserts() -> None:
    rooms = (saga_instances, saga_save, saga_timers, saga_stash, saga_calls, saga_effects)
    statements = {
        f"{room.__name__.rpartition('.')[2]}.{name}": value
        for room in (*rooms, saga_sweep, saga_figures)
        for name, value in vars(room).items()
        if name.isupper() and isinstance(value, str) and "{schema}" in value
    }
    asked = {plan[0] for plan in PLANS.values()}
    assert {name for name, text in statements.items() if text not in asked} == {
        "saga_instances._REGISTER",
        "saga_instances._KNOWN",  # a handful of rows
        "saga_instances._LOCK_KEYS",
        "saga_instances._START",
        "saga_stash._STASH",
        "saga_effects._BEGIN",
        "saga_effects._TAKE_OVER",  # of those that were locked
        "saga_sweep._FORGET",
        "saga_sweep._SAGAS",
    }


FILL = f"""
INSERT INTO saga_definition (saga_type, version, digest, graph) VALUES ('s', 1, 'd', 'g');
INSERT INTO saga (saga_id, saga_type, business_key, def_version, def_digest, status, data,
    data_version, version, created_at, updated_at, status_since, finished_at)
  SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 's', n::text, 1, 'd',
         CASE WHEN n % 2 = 0 THEN 'completed' ELSE 'running' END, 'x', 1, 0, now(), now(), now(),
         CASE WHEN n % 2 = 0 THEN now() - n * interval '1 s' END
    FROM generate_series(1, {ROWS}) n;
INSERT INTO saga_step (saga_id, seq, phase, name, occurrence, kind, effect_id, status, attempt,
    started_at)
  SELECT saga_id, 1, 'forward', 'n', 0, 'command', saga_id, 'dispatched', 1, now() FROM saga;
INSERT INTO saga_timer (saga_id, name, saga_type, def_version, epoch, due_at)
  SELECT saga_id, 't', 's', 1, 1, now() + business_key::int * interval '1 s' FROM saga;
INSERT INTO saga_call (effect_id, saga_type, saga_id, seq, phase, step, input, def_version, due_at)
  SELECT saga_id, 's', saga_id, 1, 'forward', 'n', 'x', 1,
         now() + business_key::int * interval '1 s' FROM saga;
INSERT INTO saga_correlation SELECT 's', 'n', business_key, saga_id FROM saga;
INSERT INTO saga_stash (saga_type, name, value, message, message_id, type, source, topic, headers,
    payload, expires_at)
  SELECT 's', 'n', business_key, saga_id, 'i', 't', 's', 't', 'h', 'p',
         now() + business_key::int * interval '1 s' FROM saga;
INSERT INTO saga_effect (effect_id, step, state, created_at)
  SELECT saga_id, 'n', 'done', now() - business_key::int * interval '1 s' FROM saga;
"""
