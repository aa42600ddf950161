"""A policy of one number, its agent, and an environment for it: what a line needs, and no more."""

import numpy as np

from dummies import CountingAgent, CountingEnv
from tmrl.actor import ActorModule


class PlainActor(ActorModule):
    """A policy of one number, which it saves itself; it acts with it."""

    def __init__(self, observation_space=None, action_space=None):
        super().__init__(observation_space, action_space)
        self.value = 0.0

    def act(self, obs, test=False):
        return np.full(1, self.value, np.float32)

    def save(self, path):
        np.array([self.value]).tofile(path)

    def load(self, path, device):
        actor = type(self)(self.observation_space, self.action_space)
        (actor.value,) = np.fromfile(path)
        return actor


class PlainAgent(CountingAgent):
    """Its policy acts with the number of its training steps."""

    not_saved = ("actor",)

    def get_actor(self):
        actor = PlainActor()
        actor.value = float(len(self.batches))
        return actor


class CarefulEnv(CountingEnv):
    """Leaves the actions that it gets as they are."""

    def step(self, action):
        return super().step(np.array(action))
