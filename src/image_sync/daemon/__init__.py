"""Runs the stages: threads, signals, stopping, reloading."""
