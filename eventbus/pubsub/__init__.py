"""Publishing and consuming: from an event to its effect."""
