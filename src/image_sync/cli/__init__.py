"""The command line: one file per command, and the only code that prints. Data goes to stdout, logs to stderr."""
