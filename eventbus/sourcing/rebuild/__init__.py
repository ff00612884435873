"""Rebuilding a read model while it serves: plan, scan, index, catch up, verify, switch, undo."""

from eventbus.sourcing.rebuild.assistance import assist
from eventbus.sourcing.rebuild.options import Beat, Options, Rebuilt
from eventbus.sourcing.rebuild.rebuild import Rebuild
from eventbus.sourcing.rebuild.rollback import roll_back

__all__ = ["Beat", "Options", "Rebuild", "Rebuilt", "assist", "roll_back"]
