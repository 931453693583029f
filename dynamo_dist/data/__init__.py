"""What networks are trained on: tasks made in memory, text, images, and the user's own recordings."""

from dynamo_dist.data.dataset import Dataset, Examples, Output

__all__ = ["Dataset", "Examples", "Output"]
