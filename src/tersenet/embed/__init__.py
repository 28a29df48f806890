"""What an agent is told about a network: features of its channel groups."""

from tersenet.embed.features import FEATURE_NAMES, group_features

__all__ = ["FEATURE_NAMES", "group_features"]
