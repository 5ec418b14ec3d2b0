"""Keeps ledger and platform of one mind: adopts what lies there, settles what is in doubt, removes second copies,
and carries moves between categories and deletions over.
"""

from image_sync.reconciler.reconciler import STAGE, Reconciler

__all__ = ["STAGE", "Reconciler"]
