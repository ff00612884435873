"""Row 5: an appender that is killed anywhere; whoever comes after appends the same ids again."""
