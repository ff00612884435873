"""Transfers between accounts by several processes on one PostgreSQL, under kills and restarts."""
