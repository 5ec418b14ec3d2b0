"""A Mobius Vision SDK (1.4, 1.5) as a platform: each category is a tag, and each tag has a model of its own."""
