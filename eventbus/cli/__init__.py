"""The command line: `eventbus --help`."""
