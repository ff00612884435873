"""A year of a shop's invoices, read into two read models, exactly once."""
