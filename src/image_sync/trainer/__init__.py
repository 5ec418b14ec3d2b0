"""Trains: ``start`` starts a training when one is due, ``follow`` looks after it, ``lifecycle`` sees to its model."""
