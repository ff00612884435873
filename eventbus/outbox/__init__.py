"""From the outbox to the broker, in order per key."""
