"""What an agent is told about a network: features of its channel groups, or of its layers."""

from tersenet.embed.features import FEATURE_NAMES, LAYER_FEATURE_NAMES, group_features, layer_features

__all__ = ["FEATURE_NAMES", "LAYER_FEATURE_NAMES", "group_features", "layer_features"]
