"""Gradient descent, momentum, mini-batches and other optimisers on any loss, for every model in one loop.

Three things are open, each a function or a class of the user's: what is recorded (``record=``, functions of a
:class:`Snapshot`), what is minimised (:mod:`nqm_tools.losses`) and how (``momentum``, schedules, ``optimizer=``). The
loop (``_loop``) knows a bound model only by what :class:`nqm_tools.expansions.Model` says.
"""

from nqm_tools.training._phases import PhaseConstants, phase_constants, phases
from nqm_tools.training._problem import (
    METHOD_SETTINGS,
    Method,
    Problem,
    critical_rate,
    initial_kernel,
    initial_sharpness,
    prepare,
)
from nqm_tools.training._recording import DEFAULT_RECORD, RECORDERS, Recorder, Snapshot
from nqm_tools.training._rules import GradientDescent, Optimizer
from nqm_tools.training._runs import Run, environment, regime
from nqm_tools.training._stable import StableLearningRate, max_stable_learning_rate
from nqm_tools.training._train import train, train_rates, whole

__all__ = [
    "DEFAULT_RECORD",
    "METHOD_SETTINGS",
    "RECORDERS",
    "GradientDescent",
    "Method",
    "Optimizer",
    "PhaseConstants",
    "Problem",
    "Recorder",
    "Run",
    "Snapshot",
    "StableLearningRate",
    "critical_rate",
    "environment",
    "initial_kernel",
    "initial_sharpness",
    "max_stable_learning_rate",
    "phase_constants",
    "phases",
    "prepare",
    "regime",
    "train",
    "train_rates",
    "whole",
]
