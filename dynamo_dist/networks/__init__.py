"""Base networks: stacked along a leading network axis M for speed, and as the plain modules that they are."""

from dynamo_dist.networks.modules import SequenceClassifier
from dynamo_dist.networks.stacked import Architecture, StackedClassifier

__all__ = ["Architecture", "SequenceClassifier", "StackedClassifier"]
