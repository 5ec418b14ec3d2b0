"""Keeps ledger and platform of one mind: ``stage`` asks ``in_doubt``, ``adopt`` and ``changes`` in turn."""
