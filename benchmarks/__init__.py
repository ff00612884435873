"""Speed, memory and start-up: `python -m benchmarks`. The rules are those of `rounds.py`."""
