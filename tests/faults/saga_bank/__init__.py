"""Transfers of money as sagas, in several processes on PostgreSQL and a broker, under kills."""
