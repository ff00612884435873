"""Programs to read and run: `python -m examples.order_book`, `python examples/01_hello.py`."""
