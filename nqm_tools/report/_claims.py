"""The paper's claims: where each is recorded, and the rule that decides it."""

from collections.abc import Callable
from typing import NamedTuple

from nqm_tools.report import _generalization as generalization
from nqm_tools.report import _kernels as kernels
from nqm_tools.report import _theorems as theorems


class Claim(NamedTuple):
    """``store`` is the folder with the panel's runs; ``check`` takes the frame of its runs, or ``curves``' rows."""

    figure: str
    panel: str
    store: str
    statement: str
    rule: str
    check: Callable
    curves: bool = False


# Data sets that the project could not obtain so far.
AWAITED = ("svhn2",)


def claims():
    """All claims, in the order of the paper's figures and theorems."""
    return [
        *_theorems(),
        *_distances(),
        *_test_losses("2b", "CIFAR-2, FC", "figure_2b", clear=True),
        *_eigenvalues("3", "quadratic model", "f_quad"),
        *(claim for panel, store in _FIGURE_4.items() for claim in _test_losses("4", panel, store)),
        *_eigenvalues("5", "network", "f"),
        *_spectra("6", "f_quad"),
        *_spectra("7", "f"),
        *_peaks("8A", "general quadratic model", "figure_8_model", "gamma", "f", rising=False),
        *_peaks("8B", "network", "figure_8_network", "width", "f"),
        *(claim for panel, store in _FIGURE_9.items() for claim in _test_losses("9", panel, store)),
        *(claim for panel, store in _FIGURE_9.items() for claim in _accuracies("10", panel, store)),
        *(
            claim
            for panel, store in {"CIFAR-2, FC": "figure_2b", **_FIGURE_4}.items()
            for claim in _accuracies("19.6", panel, store)
        ),
        *(claim for panel, store in _FIGURE_19.items() for claim in _test_losses("19.8", panel, store)),
    ]


_FIGURE_4 = {
    "FSDD, FC": "figure_4_fsdd",
    "AG News, FC": "figure_4_ag_news",
    "MNIST, FC": "figure_4_mnist",
    "CIFAR-2, FC, SGD": "figure_4_cifar2_sgd",
    "CIFAR-2, CNN": "figure_4_cifar2_cnn",
    "SVHN-2, CNN": "figure_4_svhn2_cnn",
}
_FIGURE_9 = {
    f"{panel}, 3 layers": f"figure_9_{name}"
    for panel, name in (("CIFAR-2", "cifar2"), ("SVHN-2", "svhn2"), ("FSDD", "fsdd"), ("AG News", "ag_news"))
}
_FIGURE_19 = {
    f"{panel}, {activation}": f"figure_19_{name}_{activation.lower()}"
    for activation in ("Tanh", "Swish")
    for panel, name in (
        ("AG News, FC", "ag_news"),
        ("FSDD, FC", "fsdd"),
        ("CIFAR-2, CNN", "cifar2_cnn"),
        ("SVHN-2, CNN", "svhn2_cnn"),
    )
}


def _test_losses(figure, panel, store, clear=False):
    least = generalization.CLEAR_GAIN if clear else 0.0
    below = f"at least {100 * least:.0f} % below, and beyond" if clear else "below, by more than"

    def claim(*rest):
        return Claim(figure, panel, store, *rest)

    yield claim(
        "below the critical rate f, f_lin and f_quad reach the same best test loss",
        f"apart by at most {100 * generalization.AGREEMENT:.0f} % at every such rate, on average over seeds",
        generalization.agreement,
    )
    for model in ("f", "f_quad"):
        yield claim(
            f"above it {model} reaches a lower best test loss than below",
            f"the best mean above is {below} one standard deviation over seeds",
            generalization.gain(model, least),
        )
        yield claim(
            f"the best test loss of {model} keeps falling over a range of rates above the critical one",
            "the mean falls at each of the first two recorded rates above it, or more",
            generalization.falls_over_a_range(model),
        )
    yield claim(
        "f_lin diverges at every rate above the critical one", "all runs diverge", generalization.linear_model_diverges
    )
    yield claim(
        "(ours) training is long enough for that",
        f"below the critical rate no best test loss is at the last step, or the training loss is below "
        f"{generalization.FITTED:g}",
        generalization.long_enough,
    )


def _accuracies(figure, panel, store):
    for model in ("f", "f_quad"):
        yield Claim(
            figure,
            panel,
            store,
            f"above the critical rate {model} reaches a higher best test accuracy than below",
            "the best mean above is higher by more than one standard deviation over seeds",
            generalization.gain(model, column="best_test_accuracy"),
        )


def _eigenvalues(figure, panel, model):
    stays = f"changes by less than {100 * kernels.STAYS:.0f} %"
    statements = (
        ("eta < 2/lambda_1: neither eigenvalue of the kernel changes", f"in every run each {stays}"),
        (
            "2/lambda_1 < eta < 2/lambda_2: only lambda_1 falls (theorem 3)",
            f"in every run lambda_1 ends below 2/eta, and lambda_2 {stays}",
        ),
        ("2/lambda_2 < eta < 4/lambda_1: both fall (theorem 3)", "in every run both end below 2/eta"),
    )
    for region, (statement, rule) in enumerate(statements):
        check = kernels.eigenvalues_by_rate(model, region)
        yield Claim(figure, panel, "figure_3_5", statement, rule, check, curves=True)


def _spectra(figure, model):
    for panel, store in (
        ("CIFAR-2, FC", "figure_6_7_fc"),
        ("CIFAR-2, CNN", "figure_6_7_cnn"),
        ("SVHN-2, FC", "figure_6_7_svhn2_fc"),
        ("SVHN-2, CNN", "figure_6_7_svhn2_cnn"),
    ):
        # Only there is lambda_2 close enough for a catapult along both.
        both = (
            "(ours) eta > 2/lambda_2: the loss along the first two eigenvectors accounts for the spike",
            f"at least {100 * kernels.TOP_SHARE:.0f} % of its rise to the peak, on average over seeds",
            kernels.spike_in_top_space(model, 2),
        )
        for statement, rule, check in (
            *([both] if panel.endswith("FC") else []),
            (
                "2/lambda_1 < eta < 2/lambda_2: the loss along the top eigenvector accounts for the spike",
                f"at least {100 * kernels.TOP_SHARE:.0f} % of its rise to the peak, on average over seeds",
                kernels.spike_in_top_space(model, 1),
            ),
            (
                "R_f and R_K along the top eigenvector are positive while the loss is large",
                f"eta < 2/lambda_2: at all steps with a loss above {kernels.LARGE:g} times the first, in every run",
                kernels.corrections_are_positive(model),
            ),
            (
                "R_f and R_K scale with the loss along the top eigenvector",
                "means of the exponents 1 ± 0.2 over those steps",
                kernels.corrections_scale(model),
            ),
        ):
            yield Claim(figure, panel, store, statement, rule, check, curves=True)


def _peaks(figure, panel, store, size, model, rising=True):
    more = "a larger width" if rising else "a smaller gamma"
    for statement, rule, check in (
        (
            f"{more} or a larger rate: a higher peak of the loss",
            "the mean peak is ordered so at every rate and size",
            kernels.peak_rises(size, model, rising),
        ),
        (
            "a larger rate: a larger fall of the kernel",
            "the mean of final over first lambda_1 falls with the rate at every size",
            kernels.kernel_falls_with_rate(size, model),
        ),
        (
            f"{size} does not change the final kernel",
            f"means of final over first lambda_1 are at most {kernels.SAME_END:g} apart at every rate up to "
            f"{kernels.REGULAR:g} times the critical one",
            kernels.kernel_end_is_the_same(size, model),
        ),
    ):
        yield Claim(figure, panel, store, statement, rule, check, curves=True)


def _distances():
    for model in ("f_quad", "f"):
        for above, statement in (
            (False, "below the critical rate a ball of fixed radius holds the path"),
            (True, "above it the path leaves every fixed ball as the width grows"),
        ):
            yield Claim(
                "2a",
                "CIFAR-2, FC, " + ("network" if model == "f" else "quadratic model"),
                "figure_2a",
                statement,
                f"the distance {'that a catapult adds' if above else 'from the start'} grows like "
                f"width^({'1/2' if above else '0'} ± 0.1)",
                kernels.distance_exponent(model, above),
                curves=True,
            )


def _theorems():
    for figure, statement, rule, check in (
        ("1", "eta < 2/lambda: monotone", "all recorded runs", theorems.regimes(0, 1, "monotone")),
        ("1", "2/lambda < eta < 4/lambda: catapult", "all recorded runs", theorems.regimes(1, 1.9, "catapult")),
        ("1", "eta > 4/lambda: divergence", "all recorded runs", theorems.regimes(2.05, 3, "divergent")),
        (
            "Theorem 1",
            "the loss climbs to order m",
            "exponents 1 ± 0.2 at every rate (label 0, means over seeds)",
            theorems.peak_grows_with_width,
        ),
        (
            "Theorem 2",
            "a catapult ends at a stable equilibrium",
            "2 sqrt(c) eta |y| <= eta lambda < 2 at the end of every run",
            theorems.final_kernel,
        ),
        (
            "Theorem 2",
            "(ours) the series of the adiabatic invariant gives the final kernel",
            "within 1 % up to 1.3 times the critical rate, at the largest width, label 0",
            theorems.final_kernel_series,
        ),
        (
            "Proposition 6",
            "|x|^2/(2d) <= lambda(0) <= 3|x|^2/(2d)",
            "in every draw",
            theorems.kernel_at_start,
        ),
    ):
        yield Claim(figure, "one example", "theorems_1_2", statement, rule, check, curves=True)
