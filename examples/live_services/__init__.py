"""A service and its tests on real brokers and a real database; see test_app.py."""
