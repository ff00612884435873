"""Positions in the event log; the log itself joins with the room that reads it."""

from typing import NewType

Position = NewType("Position", int)
"""Store it, compare it, never compute with it."""
