"""The tables of the ledger, and time, on each database that crash tests run on.

The queries of the ledger are one text: on PostgreSQL views go by the names of SQLite.
"""

ON_SQLITE = (
    "CREATE TABLE crashtest_sent (place INTEGER PRIMARY KEY, id TEXT, source TEXT, type TEXT,"
    " topic TEXT, key TEXT, UNIQUE (source, id))",
    "CREATE TRIGGER crashtest_sends AFTER INSERT ON eventbus_outbox BEGIN"
    " INSERT OR IGNORE INTO crashtest_sent (id, source, type, topic, key)"
    " VALUES (NEW.message_id, NEW.source, NEW.type, NEW.topic, NEW.key); END",
    "CREATE TABLE crashtest_effects (place INTEGER PRIMARY KEY, grp TEXT, handler TEXT,"
    " identity TEXT, id TEXT, source TEXT, type TEXT)",
)
ON_POSTGRES = (
    "CREATE TABLE crashtest_sent (place bigint PRIMARY KEY, id text, source text, type text,"
    " topic text, key text, UNIQUE (source, id))",
    "CREATE FUNCTION crashtest_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO public.crashtest_sent VALUES"
    " (NEW.id, NEW.message_id, NEW.source, NEW.type, NEW.topic, NEW.key)"
    " ON CONFLICT DO NOTHING; RETURN NULL; END $$",
    "CREATE TRIGGER crashtest_sends AFTER INSERT ON eventbus.outbox"
    " FOR EACH ROW EXECUTE FUNCTION crashtest_note()",
    "CREATE TABLE crashtest_effects (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " grp text, handler text, identity text, id text, source text, type text)",
    "CREATE VIEW eventbus_inbox AS SELECT group_name, message::text AS message FROM eventbus.inbox",
    "CREATE VIEW eventbus_outbox AS SELECT message_id, type, topic, key, error"
    " FROM eventbus.outbox",
    "CREATE VIEW eventbus_parked AS SELECT group_name, message::text AS message, type,"
    " message_key, reason, error_type, error FROM eventbus.parked",
    "CREATE VIEW eventbus_discarded AS SELECT group_name, message::text AS message"
    " FROM eventbus.discarded",
    "CREATE VIEW eventbus_saga AS SELECT saga_type, business_key, status FROM eventbus.saga",
)

LEASES_RAN_OUT = "UPDATE eventbus.leases SET until = '-infinity'"
CALL_DUE = (
    "SELECT extract(epoch FROM min(due_at) - statement_timestamp())::float8 AS seconds"
    " FROM eventbus.saga_call WHERE isfinite(due_at)"
)
_DUE_AT = ("outbox", "outbox_scheduled", "parked_keys", "saga_timer", "saga_call")
PASSED = tuple(  # so much time: the server's clock stays, what is due comes nearer
    f"UPDATE eventbus.{table} SET due_at = due_at - make_interval(secs => $1)"  # noqa: S608 - fixed
    " WHERE isfinite(due_at)"
    for table in _DUE_AT
)
