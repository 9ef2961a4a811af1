"""The paper's claims: where each is recorded, and the rule that decides it."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.zhu2024 import generalization, kernels, panels, theorems

SEEDS = f"{FEWEST_SEEDS} seeds or more"
LEFT_OUT = "rates below from the first on at which one is not are left out, if one is left"


def claims() -> list[Claim]:
    """All claims, in the order of the paper's figures and theorems."""
    return [
        *_theorems(),
        *_distances(),
        *_test_losses("2b", clear=True),
        *_eigenvalues("3", "quadratic model", "f_quad"),
        *_test_losses("4"),
        *_eigenvalues("5", "network", "f"),
        *_spectra("6", "f_quad"),
        *_spectra("7", "f"),
        *_peaks("8A", "general quadratic model", "figure_8_model", "gamma", "f", rising=False),
        *_peaks("8B", "network", "figure_8_network", "width", "f"),
        *_test_losses("9"),
        *_accuracies("10"),
        *_accuracies("19.6"),
        *_test_losses("19.8"),
    ]


def _test_losses(figure, clear=False):
    least = generalization.CLEAR_GAIN if clear else 0.0
    for panel, sweep in panels.of_figure(figure).items():

        def claim(*rest, kind="claim", panel=panel, sweep=sweep):
            return Claim(figure, panel, sweep, *rest, kind=kind, beside=panels.BESIDE.get(sweep, ()))

        yield claim(
            "below the critical rate f, f_lin and f_quad reach the same best test loss",
            f"{SEEDS}; how far they are apart at the worst such rate: the 95 % interval of the mean over seeds ends at "
            f"{100 * generalization.AGREEMENT:.0f} % or less; all those runs are monotone ({LEFT_OUT})",
            generalization.agreement,
        )
        for model in ("f", "f_quad"):
            yield claim(
                f"above it {model} reaches a lower best test loss than below",
                f"{SEEDS}; paired, rate and step chosen on the other seeds: the 95 % interval of the gain lies above "
                f"{100 * least:.0f} %; runs below the critical rate are monotone ({LEFT_OUT}), those above catapults",
                generalization.gain(model, least),
            )
            yield claim(
                f"the best test loss of {model} keeps falling over a range of rates above the critical one",
                f"{SEEDS}; paired, from the largest rate below on: at each of the first two rates above, or more, the "
                "95 % interval of the fall lies above 0",
                generalization.falls_over_a_range(model),
            )
        yield claim(
            "f_lin diverges at every rate above the critical one",
            "no run is an exception",
            generalization.linear_model_diverges,
            kind="identity",
        )
        yield claim(
            "training is long enough for that",
            f"below the critical rate no best test loss is at the last step, or the training loss is below "
            f"{generalization.FITTED:g}",
            generalization.long_enough,
            kind="check",
        )


def _accuracies(figure):
    for panel, sweep in panels.of_figure(figure).items():
        for model in ("f", "f_quad"):
            yield Claim(
                figure,
                panel,
                sweep,
                f"above the critical rate {model} reaches a higher best test accuracy than below",
                f"{SEEDS}; paired, rate and step chosen on other seeds: the 95 % interval of the gain lies above 0, "
                "and the mean gain is more than one test example",
                generalization.gain(model, column="best_test_accuracy"),
                beside=panels.BESIDE.get(sweep, ()),
            )


def _eigenvalues(figure, panel, model):
    stays = f"changes by less than {100 * kernels.STAYS:.0f} %"
    statements = (
        ("eta < 2/lambda_1: neither eigenvalue of the kernel changes", f"in every run each {stays}"),
        (
            "2/lambda_1 < eta < 2/lambda_2: only lambda_1 falls (theorem 3)",
            f"in every run lambda_1 ends below 2/eta, and lambda_2 {stays}, each followed by its eigenvector",
        ),
        ("2/lambda_2 < eta < 4/lambda_1: both fall (theorem 3)", "in every run both end below 2/eta"),
    )
    for region, (statement, rule) in enumerate(statements):
        check = kernels.eigenvalues_by_rate(model, region)
        yield Claim(figure, panel, "figure_3_5_followed", statement, rule, check)


def _spectra(figure, model):
    for panel, store in (
        ("CIFAR-2, FC", "figure_6_7_fc"),
        ("CIFAR-2, CNN", "figure_6_7_cnn"),
        ("SVHN-2, FC", "figure_6_7_svhn2_fc"),
        ("SVHN-2, CNN", "figure_6_7_svhn2_cnn"),
    ):
        for statement, rule, check in (
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
                "means of the exponents 1 ± 0.2 over those steps, if the loss spans a factor of 10 in them",
                kernels.corrections_scale(model),
            ),
        ):
            yield Claim(figure, panel, store, statement, rule, check)


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
        yield Claim(figure, panel, store, statement, rule, check)


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
            )


def _theorems():
    for figure, sweep, statement, rule, check in (
        (
            "1",
            "theorems_1_2",
            "eta < 2/lambda: monotone",
            "all recorded runs",
            theorems.regimes(0, 1, "monotone"),
        ),
        (
            "1",
            "theorems_1_2",
            "2/lambda < eta < 4/lambda: catapult",
            "all recorded runs, to 1.8 times the critical rate",
            theorems.regimes(1, 1.9, "catapult"),
        ),
        (
            "1",
            "theorems_1_2",
            "eta > 4/lambda: divergence",
            "all recorded runs, from 2.1 times the critical rate",
            theorems.regimes(2.05, 3, "divergent"),
        ),
        (
            "Theorem 1",
            "theorems_1_2",
            "the loss climbs to order m",
            f"exponents 1 ± {theorems.PEAK_EXPONENT:g} at every rate (label 0, means over seeds); m/log m has 0.88",
            theorems.peak_grows_with_width,
        ),
        (
            "Theorem 2",
            "theorems_edge",
            "between 2/lambda and 4/lambda, up to eps = log m/sqrt(m) at both ends, a run ends at a stable equilibrium",
            f"every run that has one (sqrt(c) eta |y| < 1), divergent runs too: a loss below {theorems.AT_REST:g} and "
            "2 sqrt(c) eta |y| <= eta lambda < 2",
            theorems.ends_at_rest,
        ),
        (
            "Proposition 6",
            "",
            "|x|^2/(2d) <= lambda(0) <= 3|x|^2/(2d) with probability 1 - delta for m >= C log(4/delta)",
            "the share of draws outside at four times a width is at most its square",
            theorems.kernel_at_start,
        ),
    ):
        yield Claim(figure, "one example", sweep, statement, rule, check)
