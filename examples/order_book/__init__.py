"""A year of a shop's invoices, recorded as orders and read into two read models, exactly once."""
