"""What is measured: the parts, and the cases of each, as plain settings; a case runs in a process of its own.

Nothing here imports JAX: the process that starts the others stays small, since on Linux the peak memory of a process
counts what the one that started it held.
"""

from typing import NamedTuple

PAPER_RATES = (0.25, 0.5, 0.75, 0.9, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9)  # experiments/figure_2b.toml
MODELS = ("f", "f_lin", "f_quad")
GENERAL = ("plain tanh", "3-layer FC", "residual network", "transformer")
FC, AVERAGE, FLATTEN, DEEP = "FC 2b", "CNN average", "CNN flatten", "3-layer FC"

# n examples of this shape, and the width m.
PAPER_PROBLEMS = {
    FC: {"kind": "two_layer_fc", "width": 5000, "n": 256, "shape": [3072]},
    AVERAGE: {"kind": "average", "width": 1000, "n": 256, "shape": [32, 32, 3]},
    FLATTEN: {"kind": "flatten", "width": 1000, "n": 256, "shape": [32, 32, 3]},
    DEEP: {"kind": "deep_fc", "width": 1024, "n": 100, "shape": [3072]},
    "plain tanh": {"kind": "plain", "width": 1024, "n": 128, "shape": [256]},
    "residual network": {"kind": "resnet", "width": 64, "n": 64, "shape": [8, 8, 1]},
    "transformer": {"kind": "transformer", "width": 128, "n": 64, "shape": [16], "tokens": 500},
}
QUICK_PROBLEMS = {
    FC: {"kind": "two_layer_fc", "width": 64, "n": 16, "shape": [96]},
    AVERAGE: {"kind": "average", "width": 16, "n": 8, "shape": [8, 8, 3]},
    FLATTEN: {"kind": "flatten", "width": 16, "n": 8, "shape": [8, 8, 3]},
    DEEP: {"kind": "deep_fc", "width": 32, "n": 8, "shape": [48]},
    "plain tanh": {"kind": "plain", "width": 32, "n": 16, "shape": [24]},
    "residual network": {"kind": "resnet", "width": 4, "n": 4, "shape": [4, 4, 1]},
    "transformer": {"kind": "transformer", "width": 8, "n": 4, "shape": [4], "tokens": 20},
}
KERNEL_WAYS = (
    "closed form",
    "closed form, and binding",
    "nqm.empirical_ntk",
    "STRUCTURED_DERIVATIVES",
    "JACOBIAN_CONTRACTION",
    "NTK_VECTOR_PRODUCTS",
)
# Inputs, width (parameters are a little more than their product) and examples of the kernels that memory is about.
LARGE_KERNELS = {"0.6 M x 256": (512, 1170, 256), "2.5 M x 512": (1024, 2440, 512), "10 M x 512": (2048, 4880, 512)}
LARGE_WAYS = ("nqm.empirical_ntk", "nt.empirical_ntk_fn", "nt.batch")
# Seconds that an implementation of the kernel may take, compile included.
KERNEL_LIMIT = 90
LARGE_LIMIT = 600
# A child that takes longer than this many seconds hangs.
LIMIT = 1800


class Part(NamedTuple):
    """What a part is about, and a function from the scale (quick or not) to its cases."""

    about: str
    cases: callable


def _problems(quick):
    return QUICK_PROBLEMS if quick else PAPER_PROBLEMS


def _problem(name, quick):
    return {"name": name} | _problems(quick)[name]


def _steps(quick):
    return [
        {"title": f"{name}, {model}", "problem": _problem(name, quick), "model": model}
        for name in (FC, AVERAGE, FLATTEN, DEEP)
        for model in MODELS
    ]


def _kernels(quick):
    return [
        {"title": f"{name}, {way}", "problem": _problem(name, quick), "way": way, "limit": KERNEL_LIMIT}
        for name in (FC, AVERAGE, DEEP)
        for way in KERNEL_WAYS
        if not (name == DEEP and way.startswith("closed form"))  # it has none
    ]


def _memory(quick):
    sizes = {"600 x 16": (24, 24, 16)} if quick else LARGE_KERNELS
    return [
        {
            "title": f"{name}, {way}",
            "problem": {"name": name, "kind": "plain", "width": width, "n": n, "shape": [inputs]},
            "way": way,
            "limit": LARGE_LIMIT,
        }
        for name, (inputs, width, n) in sizes.items()
        for way in LARGE_WAYS
    ]


def _recording(quick):
    return [
        {"title": f"{name}, {model}", "problem": _problem(name, quick), "model": model, "steps": 20 if quick else 100}
        for name, model in ((FC, "f_quad"), (FC, "f"), (AVERAGE, "f_quad"))
    ]


def _training(quick):
    rates = PAPER_RATES[::4] if quick else PAPER_RATES
    return {"rates": rates, "steps": 30 if quick else 600, "n_test": 32 if quick else 2000, "record_every": 10}


def _curve(quick):
    return [{"title": "FC 2b, f_lin", "problem": _problem(FC, quick), "models": ["f_lin"], **_training(quick)}]


def _sweep(quick):
    settings = {"problem": _problem(FC, quick), "models": MODELS, **_training(quick)}
    return [{"title": "figure 2b", "real_data": not quick, **settings}]


def _share(quick):
    return [{"title": "FC 2b", "problem": _problem(FC, quick), "square": 128 if quick else 4096}]


def _growth(quick):
    examples, widths = ((8, 16), (16, 32)) if quick else ((64, 128, 256, 512), (1250, 2500, 5000, 10000))
    small = {"name": "small", "kind": "two_layer_fc", "width": 16, "n": 16, "shape": [64]}
    between = {"name": "between", "kind": "two_layer_fc", "width": 96, "n": 32, "shape": [256]}
    medium = {"name": "medium", "kind": "two_layer_fc", "width": 128, "n": 64, "shape": [256]}
    sizes = [(small, 50)] if quick else [(small, 2000), (between, 1000), (medium, 500), (_problem(FC, quick), 60)]
    runs = (1, 4) if quick else (1, 4, 13)
    shape = [96] if quick else [3072]
    grid = [{"kind": "two_layer_fc", "width": m, "n": n, "shape": shape} for n in examples for m in widths]
    together = [
        {"title": f"runs side by side, {size['name']}", "problem": size, "steps": steps, "runs": runs}
        for size, steps in sizes
    ]
    return [{"title": "examples and width", "grid": grid}, *together]


def _groups(quick):
    counts = (1, 10) if quick else (1, 10, 100, 1000, 10_000)
    seeds = (10, 100) if quick else (10**3, 10**4, 10**5, 10**6)
    return [{"title": "groups", "groups": counts, "rates": 13}, {"title": "seeds", "seeds": seeds}]


def _general(quick):
    return [{"title": name, "problem": _problem(name, quick)} for name in GENERAL[: 2 if quick else None]]


def _phases(quick):
    widths, seeds, rates = ((16,), 1, 3) if quick else ((64, 128, 256, 512), 5, 12)
    title = "phase diagram, depth 2, digits"
    return [{"title": title, "widths": widths, "seeds": seeds, "rates": rates, "steps": 10, "n": 128, "c": [1.8, 4.0]}]


def _features(quick):
    if quick:
        sizes, d, examples, large = [(16, 5, 1), (16, 5, 2)], 5, (30, 60), {"n": 40, "d": 30, "width": 16}
    else:
        sizes = [(256, 20, 1), (1024, 20, 1), (4096, 20, 1), (256, 100, 1), (256, 784, 1), (1000, 3072, 1)]
        sizes += [(256, 20, 10), (256, 784, 10)]
        d, examples, large = 50, (500, 1000, 2000, 3000), {"n": 10_000, "d": 3072, "width": 1024}
    run = {"n": 16, "n_test": 16, "d": 5, "steps": 20, "width": 16}
    run = run if quick else {"n": 256, "n_test": 1000, "d": 20, "steps": 500, "width": 512}
    return [
        {"title": "AGOP and gradient step", "kind": "agop", "width": large["width"], "sizes": sizes},
        {"title": "a large AGOP", "kind": "alignment"} | large,
        {"title": "recursive feature machine", "kind": "machine", "n": examples, "d": d, "iterations": 3},
        {"title": "recording the alignment", "kind": "recording"} | run,
    ]


PARTS = {
    "steps": Part(
        "One step of gradient descent on all training examples, as `nqm.train` computes it and by `jax.grad`, by"
        " neural-tangents' expansions and by PyTorch, all jitted where there is a jit and with everything passed as"
        " arguments. *First step* is from the call, compile included; for this package it is a whole"
        " `nqm.train(..., steps=1)`, which evaluates the model twice. *Difference* is that of the predictions after two"
        " steps from the first row's, relative to their largest value (float32).",
        _steps,
    ),
    "kernels": Part(
        "The empirical tangent kernel on all training examples. *Closed form* is what a run's records cost, once its"
        " model is bound to the inputs. The Frobenius norm shows that all compute the same.",
        _kernels,
    ),
    "memory": Part(
        "The tangent kernel of a function that is none of the package's networks (two layers, tanh, biases), by"
        " parameters and examples. `nqm.empirical_ntk` keeps to 2 GB; `nt.empirical_ntk_fn` builds the Jacobian;"
        " `nt.batch` is given batches of which two Jacobians have 2 GB. *Peak* is the largest resident memory of the"
        " process, *before* that of its imports and arguments.",
        _memory,
    ),
    "recording": Part(
        "A whole run without records, and one that records `lambda_1`, `lambda_2`, `projection_1`, `R_f` and `R_K`"
        " every 10 steps; compile excluded.",
        _recording,
    ),
    "curve": Part(
        "All learning rates of `f_lin` from the arrays to the losses in one go, compile included: binding, critical"
        " rate, training and test losses every 10 steps. Random data of CIFAR-10's shape.",
        _curve,
    ),
    "sweep": Part("Figure 2b, `f`, `f_lin` and `f_quad` at all learning rates, compile included.", _sweep),
    "share": Part(
        "How much of the machine's rate of matrix products a step reaches. *Operations* are counted from the formulas:"
        " two products of 2 n n m in the span of the n inputs and 6 n m for the readout; elementwise work"
        " is not counted. The rates of products are the best of the repeats.",
        _share,
    ),
    "growth": Part(
        "How a step of `f_quad` in the span of the inputs grows with n and m, and what running side by side gains."
        " `SMALL_STATE` in `nqm_tools/training/_problem.py` is from here.",
        _growth,
    ),
    "groups": Part(
        "What a sweep costs beside its runs. *Groups* makes the groups and their keys; *all there* is a whole call of"
        " `nqm.sweeps.run` that finds a full store, checks every file of it and gives its frame. *Seeds* makes the"
        " sweep alone. All of them are once, not repeated.",
        _groups,
    ),
    "general": Part(
        "Value and gradient of `f_quad` for any function. A: `nt.taylor_expand` for the value, `jvp` of `grad` for the"
        " gradient. B: reverse over `nt.taylor_expand`. C, which the package uses with mini-batches: `jvp` of"
        " `jvp` for the value, reverse over the inner `jvp` for the gradient. D: `jax.experimental.jet` for the value."
        " E: `jax.linearize` once, what it keeps passed on from step to step. F: C of the function under"
        " `jax.checkpoint`. G, which the package uses where a step takes all examples: C, with all that depends on the"
        " start alone computed once. Below them what they are counted in: a gradient and a Hessian-vector product of f"
        " itself. *GFLOP* is XLA's count of operations, *memory* what a step holds: arguments, results, and the"
        " *working memory* beside them. The residual network (no normalisation) and the transformer are those of"
        " `experiments/own_models.py`.",
        _general,
    ),
    "phases": Part(
        "A phase diagram of early training as `nqm.phase_constants` computes it: ten steps at every rate, a record each"
        " with the sharpness and the loss on the segment from the start, compile included. *Products* are with the"
        " loss's Hessian; the start of each setting takes up to 306 more, once.",
        _phases,
    ),
    "features": Part(
        "The average gradient outer product of a two-layer network, against a gradient step on the same examples"
        " (*steps an output*: how many of them for each output). *A large one* is for its process's memory. *A"
        " recursive feature machine* is in float64, its plain kernel machine one solve. *A run*, compile"
        " excluded, records the alignment every 10 steps or nothing.",
        _features,
    ),
}
