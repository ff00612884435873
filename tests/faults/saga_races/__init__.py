"""Workers that meet at the same sagas, on one PostgreSQL, round after round."""
