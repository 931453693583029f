"""What networks are trained on: synthetic tasks made in memory, and text."""

from dynamo_dist.data.dataset import Dataset, Sequences

__all__ = ["Dataset", "Sequences"]
