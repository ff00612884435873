"""Pure functions that judge what happened, whoever made it happen."""
