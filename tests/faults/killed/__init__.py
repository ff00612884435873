"""Processes on one PostgreSQL, killed or frozen past their leases: the next one goes on."""
