"""Starts a training when one is due, follows it to its end, and sees to the model that it makes.

``trainer`` starts, ``following`` looks after the one that runs, ``keeping`` does what is owed once it has ended;
``judging`` and ``passing`` decide, ``naming`` knows which model is which, ``recipe`` says what is wanted.
"""

from image_sync.trainer.naming import newest_of
from image_sync.trainer.recipe import Recipe
from image_sync.trainer.trainer import STAGE, Trainer

__all__ = ["STAGE", "Recipe", "Trainer", "newest_of"]
