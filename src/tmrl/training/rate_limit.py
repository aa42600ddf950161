"""RateLimit: how many training steps go with how many samples, as a band with two ends.

The idea is that of Reverb's rate limiters (Cassirer et al. 2021, arXiv 2102.04736, section 3.4): learning
that runs ahead of slow data overfits it, and data that run ahead of slow learning are paid for and hardly
used. The lower end makes the loop wait for samples; `max_training_steps_per_env_step` and `start_training`,
as documented, are that end. The upper one makes it leave samples where they are until it has caught up. They
wait with the server, and then in the outboxes of the workers; what a worker does when its outbox is full, it
was told: a simulator waits, a real-time environment drops its oldest episodes and is never held up.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A band of training steps per sample. At any time at least one of the two may go on.

    Raises:
        ValueError: The band is empty.
    """

    training_steps_per_env_step: float
    """Most training steps per sample."""
    start_training: int = 0
    """Samples to wait for before the first training step."""
    max_env_steps_ahead: float = float("inf")
    """Most samples, beside those of `start_training`, beyond what the training steps so far have needed."""

    def __post_init__(self) -> None:
        if not self.training_steps_per_env_step > 0:
            raise ValueError(
                "max_training_steps_per_env_step must be above 0, got "
                f"{self.training_steps_per_env_step}; it may be infinite"
            )
        if not self.max_env_steps_ahead > 0:
            raise ValueError(f"max_env_steps_ahead must be above 0, got {self.max_env_steps_ahead}")

    def may_train(self, training_steps: int, samples: int) -> bool:
        """Whether one more training step may be taken after so many of both."""
        if samples < max(1, self.start_training):
            return False
        return training_steps / samples <= self.training_steps_per_env_step

    def room(self, training_steps: int, samples: int) -> float:
        """How many more samples may be taken in after so many of both; none if it is 0 or less."""
        needed = training_steps / self.training_steps_per_env_step
        return max(1, self.start_training) + needed + self.max_env_steps_ahead - samples

    def excess(self, training_steps: int, samples: int) -> str:
        """Why more samples wait, in words."""
        return (
            f"the training, which has taken {training_steps:,} steps for {samples:,} samples, and "
            f"max_env_steps_ahead={self.max_env_steps_ahead:g}"
        )

    def missing(self, training_steps: int, samples: int) -> str:
        """What the next training step waits for, in words."""
        n_missing = max(1, self.start_training) - samples
        if n_missing > 0:
            return f"{n_missing:,} more samples, for start_training={self.start_training:,}"
        return (
            f"more samples: there were {training_steps:,} training steps for {samples:,} samples, and "
            f"max_training_steps_per_env_step={self.training_steps_per_env_step:g}"
        )
