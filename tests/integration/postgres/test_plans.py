"""Every hot statement goes by its index, with 100,000 rows, whatever the statistics say."""

from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from eventbus.postgres import PostgresStorage, inbox, leases, outbox, parking
from tests.conformance.postgres import database, entered
from tests.integration.postgres.plans import Plan, forget_the_rows, wrong_plans

ROWS = 100_000
PARTS = f"ARRAY{list(range(64))}::smallint[]"
SOME = (
    "ARRAY[1, 2]::smallint[], ARRAY['outbox/01', 'x'], ARRAY[1, 1]::bigint[],"
    " ARRAY[1, 3], ARRAY[2, 3], ARRAY[1, 2, 3]::bigint[]"
)
GIVEN = "smallint[], text[], bigint[], int[], int[], bigint[]"
IDS = "ARRAY[gen_random_uuid()], ARRAY[current_date]"
READ = {"limit": 500, "per_part": 200}

PLANS: Mapping[str, Plan] = {
    "outbox.read": (
        *(outbox._READ, READ, "smallint[], bigint, bigint[]"),
        *(f"{PARTS}, 7, ARRAY[8, 9]", "control"),
        {"outbox_pkey", "outbox_deferred"},
    ),
    "outbox.settle": (
        *(outbox._SETTLE, {}, GIVEN, SOME, "control"),
        {"outbox_pkey", "leases_pkey"},
    ),
    "outbox.defer": (
        outbox._DEFER,
        {},
        f"{GIVEN}, interval, text",
        f"{SOME}, '1 s', 'why'",
        "control",
        {"outbox_pkey", "leases_pkey"},
    ),
    "outbox.promote, anything": (
        *(outbox._ANY_DUE, {}, "smallint[]", PARTS, "control"),
        {"outbox_scheduled_pkey"},
    ),
    "outbox.promote": (
        outbox._PROMOTE,
        {"limit": 100},
        "smallint[], text[], bigint[]",
        "ARRAY[1]::smallint[], ARRAY['outbox/01'], ARRAY[1]::bigint[]",
        "control",
        {"outbox_scheduled_pkey", "leases_pkey"},
    ),
    "inbox.look": (
        inbox._LOOK,
        {},
        "text, uuid[], date[], text[]",
        f"'g', {IDS}, ARRAY['k1', 'k2']",
        "work",
        {"parked_keys_pkey", "inbox_*"},
    ),
    "inbox.forget": (inbox._FORGET, {}, "text, uuid[], date[]", f"'g', {IDS}", "work", {"inbox_*"}),
    "inbox.count": (
        *(inbox._COUNT, {}, "text, uuid[]", "'g', ARRAY[gen_random_uuid()]", "work"),
        {"parked_group_name_message_key"},
    ),
    "parking.due, anything empty": (
        *(parking._ANY_EMPTY, {"limit": 0}, "text", "'g'", "work"),
        {"parked_due", "parked_pkey"},
    ),
    "parking.due": (
        *(parking._DUE, {"limit": 100}, "text", "'g'", "work"),
        {"parked_due", "parked_pkey"},
    ),
    "parking.due, empty": (
        *(parking._EMPTY, {"limit": 0}, "text", "'g'", "work"),
        {"parked_due", "parked_pkey"},
    ),
    "parking.behind": (
        *(parking._BEHIND, {"limit": 100}, "text, text", "'g', 'k7'", "work"),
        {"parked_pkey"},
    ),
    "parking.settle": (
        parking._SETTLE,
        {"limit": 0},
        "text, bigint, text, uuid[]",
        "'parked/g', 1, 'g', ARRAY[gen_random_uuid()]",
        "work",
        {"parked_group_name_message_key"},
    ),
    "leases.renew": (
        leases._RENEW,
        {},
        "text[], bigint[], interval",
        "ARRAY['outbox/01'], ARRAY[1]::bigint[], '10 s'",
        "control",
        {"leases_pkey"},
    ),
}


EMPTY = "plans_analysed_when_empty"


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
    schema = filled.config.schema
    async with filled.pools.connecting() as connection:
        days = await connection.fetch(
            f"SELECT DISTINCT tableoid::regclass::text AS name FROM {schema}.inbox"
        )
    large = {"outbox", "outbox_scheduled", "parked", "parked_keys", "attempts"}
    large |= {row["name"].removeprefix(f"{schema}.") for row in days}
    asked = PLANS
    if schema == EMPTY:  # what a group has parked is read whole until the server analyses (0035)
        asked = {name: plan for name, plan in PLANS.items() if not name.startswith("parking.")}
    assert await wrong_plans(filled, asked, large) == {}


FILL = f"""
INSERT INTO outbox (part, message_id, type, source, topic, key, headers, payload)
  SELECT n % 64, n::text, 't', 's', 't', 'k' || n % 5000, '{{}}', '{{}}'
    FROM generate_series(1, {ROWS}) n;
UPDATE outbox SET due_at = 'infinity' WHERE id % 1000 = 0;
INSERT INTO outbox_scheduled (part, due_at, message_id, type, source, topic, headers, payload)
  SELECT n % 64, now() + n * interval '1 s', n::text, 't', 's', 't', '{{}}', '{{}}'
    FROM generate_series(1, {ROWS}) n;
INSERT INTO leases (name) SELECT 'outbox/' || lpad(n::text, 2, '0') FROM generate_series(0, 63) n;
INSERT INTO inbox (group_name, message, day)
  SELECT 'g', gen_random_uuid(), current_date + n % 3 FROM generate_series(1, {ROWS}) n;
INSERT INTO attempts SELECT 'g', gen_random_uuid(), 1, now() FROM generate_series(1, {ROWS}) n;
INSERT INTO parked_keys (group_name, key, due_at)
  SELECT 'g', 'k' || n, now() + n * interval '1 ms' FROM generate_series(1, {ROWS}) n;
INSERT INTO parked (group_name, key, message, message_id, type, source, topic, origin)
  SELECT 'g', 'k' || n, gen_random_uuid(), n::text, 't', 's', 't', 'o'
    FROM generate_series(1, {ROWS}) n;
"""
