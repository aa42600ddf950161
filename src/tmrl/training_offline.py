"""The documented old path of `TrainingOffline` and `TorchTrainingOffline`."""

from tmrl.training.offline import TorchTrainingOffline, TrainingOffline

__all__ = ["TorchTrainingOffline", "TrainingOffline"]
