"""Our statements, and the rules that decide them."""

from __future__ import annotations

import functools

import jax
import numpy as np

from nqm_tools import dynamics
from nqm_tools.papers._rules import FEWEST_SEEDS, Claim, Finding, Interval, estimated_percent, runs_of, unknown
from nqm_tools.papers.agarwala2022 import sharpening
from nqm_tools.papers.agarwala2024 import edge as batch_edge
from nqm_tools.papers.ours import (
    edge,
    errata,
    feature_causes,
    feature_settings,
    features,
    momentum,
    noise,
    own_networks,
    phase_diagram,
)
from nqm_tools.papers.radhakrishnan2022 import ansatz, machines
from nqm_tools.papers.zhu2023 import alignment
from nqm_tools.papers.zhu2024 import kernels, theorems

# Laws of wide networks are read at the largest width, up to this multiple of the critical rate.
LAW_UP_TO, LAW_ERROR = 1.25, 0.02
STARTS, STEPS = 4000, 20_000
# Errata: a form is right below the one and wrong above the other (relative).
RIGHT, WRONG = 1e-10, 1e-3


def claims() -> list[Claim]:
    """All statements of ours that the report decides."""
    return [
        Claim(
            "law",
            "one example",
            "theorems_1_2",
            "the peak of the loss is u/(2 c eta^2), u = delta^2/2 + delta^3/3 + 3/32 delta^4, delta = eta lambda_0 - 2",
            "label 0, widest network, up to 1.2 times the critical rate: the 95 % interval of the mean error over "
            "seeds, "
            f"at each rate, reaches to within {100 * LAW_ERROR:.0f} %",
            peak_law,
            status="derived",
            where=("02", "02b", "dynamics.peak_u", "dynamics.peak_u_series"),
        ),
        Claim(
            "law",
            "one example",
            "theorems_1_2",
            "the kernel ends at 2 - eta lambda = delta + 2/3 delta^2 + 4/9 delta^3 + 14/135 delta^4 - 76/405 delta^5",
            "label 0, widest network, up to 1.3 times the critical rate: the 95 % interval of the error ends by 1 %",
            theorems.final_kernel_series,
            status="derived",
            where=("02", "02b", "dynamics.final_v", "dynamics.final_v_series"),
        ),
        Claim(
            "law",
            "one example",
            "",
            "the adiabatic invariant to sixth order changes by order delta^7 along a catapult",
            "exponent of the largest change in delta, 0.04 to 0.16, between 6.5 and 7.5",
            invariant,
            status="proved",
            where=("02b", "dynamics.adiabatic_invariant"),
        ),
        Claim(
            "certificate",
            "one example",
            "",
            "for |beta| < 1 gradient descent converges if and only if 4 - v_0 + w_0 > 0 (beta = sqrt(c) eta y)",
            f"{STARTS:,} random starts, {STEPS:,} steps: no exception, none undecided",
            certificate,
            status="observed",
            where=("02b", "dynamics.triangle", "dynamics.max_learning_rate", "dynamics.predict_regime"),
        ),
        *(
            Claim(
                figure,
                "CIFAR-2, FC",
                "figure_6_7_fc",
                "eta > 2/lambda_2: the loss along the first two eigenvectors accounts for the spike",
                f"at least {100 * kernels.TOP_SHARE:.0f} % of its rise to the peak, on average over seeds",
                kernels.spike_in_top_space(model, 2),
                status="observed",
                where=("05", "plotting.spike"),
            )
            for figure, model in (("6", "f_quad"), ("7", "f"))
        ),
        *(
            Claim(
                figure,
                "CIFAR-2, FC, width 16,384",
                "figure_6_7_fc_wide",
                "R_f and R_K scale with the loss along the top eigenvector at a larger width",
                "means of the exponents 1 ± 0.1 while the loss is large, if it spans a factor of 10",
                kernels.corrections_scale(model, 0.1),
                status="observed",
                where=("05", "kernels.kernel_step", "plotting.corrections"),
            )
            for figure, model in (("6", "f_quad"), ("7", "f"))
        ),
        *_edge_of_stability(),
        *_features(),
        *_feature_causes(),
        *_feature_settings(),
        Claim(
            "erratum 3",
            "figure 3",
            "figure_3_5",
            "the printed critical rates 0.37 and 0.39 are for mse, not for half_sum",
            f"{FEWEST_SEEDS} seeds or more: within 2.5 standard deviations of the recorded mse rates, above half_sum's",
            rates_of_figure_3,
            status="observed",
            where=("A1", "kernels.critical_learning_rate"),
        ),
        *(
            Claim(
                f"erratum {number}",
                "computed",
                "",
                statement,
                f"against gradient descent in float64: the corrected form errs by less than {RIGHT:g}, the printed "
                f"one by more than {WRONG:g}",
                functools.partial(_erratum, check),
                status="proved",
                where=("A1", f"papers.ours.errata.{check.__name__}"),
            )
            for number, statement, check in (
                (
                    1,
                    "K(t+1) - K = -eta (G F^T + F G^T) + eta^2 G G^T for every quadratic model",
                    errata.kernel_recursion,
                ),
                (2, "proposition 10 has gamma^2 eta^2 and eta gamma^2", errata.proposition_10),
                (5, "p_1^T R_K p_1 has eta (eta lambda_1 - 4)", errata.change_along_a_direction),
                (5, "kappa_1(t) leads to the loss at t + 1", errata.kappa),
                (6, "the kernel of one-dimensional data needs normalised vectors", errata.normalised_vectors),
                (6, "u_1 and w_1 need the factor |p_1|^2", errata.norm_in_u),
                (
                    7,
                    "eta_crit = 2/lambda_max(Hessian) equals 2/lambda_max(K) for the linear model only",
                    errata.critical_rate,
                ),
                (8, "the linear term of the quadratic model has 1/sqrt(d)", errata.linear_term),
            )
        ),
        Claim(
            "kernel norm",
            "linear models, i.i.d. batches",
            "",
            "with the kernel's own eigenvectors the kernel norm is exact: it is 1 where second moments stop shrinking, "
            "with heavy-ball momentum too (there: where they first do)",
            f"kernels of {noise.EXAMPLES} examples, all batches written out: the spectral radius of a step is 1 to "
            f"{noise.RIGHT:g} there, below 1 {100 * noise.BESIDE:g} % below, above 1 {100 * noise.BESIDE:g} % above",
            noise.exact_threshold,
            status="proved",
            where=("11", "batch_noise.kernel_norm", "batch_noise.stochastic_critical_learning_rate"),
        ),
        *(
            Claim(
                "kernel norm",
                f"linear models, {name}",
                "",
                "the delocalised form tells the edge as well",
                f"{batch_edge.EXAMPLES} examples, batches of 1, 2, 4, {batch_edge.EXAMPLES // 2}: the rate with norm 1 "
                f"is within {100 * batch_edge.NEAR:g} % of the exact one, on average over {FEWEST_SEEDS} kernels",
                batch_edge.near_one(name),
                status="observed",
                where=("11", "batch_noise.kernel_norm"),
            )
            for name in batch_edge.KERNELS
        ),
        *momentum.claims(),
        *own_networks.claims(),
        *phase_diagram.claims(),
    ]


def _edge_of_stability():
    one, chebyshev = "edge_one_example", "edge_chebyshev"
    models = {"f_quad": "quadratic model", "f": "network"}
    seeds = f"{FEWEST_SEEDS} seeds or more"
    for panel, sweep, statement, rule, check, status in (
        (
            "one example, quadratic model",
            one,
            "with |beta| > 2 or D_0 < 0 a run diverges; otherwise with |beta| < 1 its loss vanishes, with |beta| > 1 "
            "it is at the edge of stability for ever",
            f"{seeds} of each kind, all runs farther than 0.02 from |beta| = 1 and 2",
            edge.foretold,
            "observed",
        ),
        *(
            (
                f"one example, {name}",
                one,
                "at the edge the time average of eta lambda is 1 + beta, up to beta = sqrt(5) - 1",
                f"{seeds}, all runs: to {edge.MEAN_ERROR:g}",
                edge.mean_kernel(model),
                # That a network becomes balanced is observed; from there on it is its quadratic model.
                "derived" if model == "f_quad" else "observed",
            )
            for model, name in models.items()
        ),
        (
            "one example, network",
            one,
            f"where its quadratic model diverges, the network does not: in {edge.MOST:.0%} of the runs or more it "
            "closes all its gates",
            f"{seeds}, all runs whose quadratic model is foretold to diverge",
            edge.network_survives,
            "observed",
        ),
        (
            "one example, network",
            "",
            "at the edge a network is alive up to beta = sqrt(27)/2 - 1; beyond, where balanced weights come to s > "
            "1 + beta, one step closes all its gates",
            f"{edge.GATE_SEEDS} networks of 64 units in NumPy at each of {len(edge.GATE_BETAS)} beta from 1.1 to 1.8, "
            f"{edge.GATE_STEPS:,} steps: all gates of none close below, of all beyond",
            edge.gates_close,
            "observed",
        ),
        (
            "two eigenvalues",
            "",
            "runs end at 2 - epsilon (1 - E)/2 - epsilon^2 (1 - E)(27 - 11 E)/32",
            "error of the median run that crosses 2, epsilon from 0.005 to 0.05: exponent 3 ± 0.3, for E = 0 and 0.3",
            edge.second_term,
            "derived",
        ),
        (
            "two eigenvalues",
            "",
            "a run from near 2 ends at 2 - e/2 (1 + W(-J/exp(1))), J conserved to leading order",
            "300 random states: median error below 0.03 epsilon at epsilon = 0.01, and a third of that at 0.001",
            edge.end_law,
            "derived",
        ),
        (
            "two eigenvalues, momentum",
            "",
            "with heavy ball the edge, over 1 + mu, is that of gradient descent for E/(1 + mu) less "
            "mu epsilon^2 (1 - E/(1 + mu))^2/(2 (1 - mu)^2)",
            "error of a run from near the curve, epsilon from 0.004 to 0.016, momentum 0.3 and 0.6, E = 0 and 0.3: "
            "exponent 2.7 to 3.5",
            edge.edge_with_momentum,
            "derived",
        ),
        (
            "two eigenvalues, momentum",
            "",
            "with momentum the edge becomes a cliff: of the runs that go past it, fewer come back to it, the more "
            "momentum the fewer; without, all do",
            f"{FEWEST_SEEDS} times {edge.CLIFF_STARTS} starts that reach up to {edge.CLIFF_REACH[1] - 1:.0%} past the "
            f"edge, epsilon = {edge.CLIFF_EPSILON:g}, momentum 0, 0.5 and 0.8: without it all end within "
            f"{edge.CLIFF_NEAR:.0%} of where starts next to it do; the 95 % intervals of both paired "
            "differences lie below 0",
            edge.cliff,
            "observed",
        ),
        (
            "random models",
            "",
            "the mean first change of v^T K v is eta^2 gamma^2 |g|^2 (p + 1)/p over symmetric Gaussian matrices",
            "800 draws and their negatives: the 95 % interval of the ratio holds 1 and is narrower than 0.05",
            sharpening.first_step,
            "proved",
        ),
        (
            "homogeneous networks",
            "",
            "a step changes |w|^2 by -2 k eta r.f + eta^2 r^T K r for every degree k",
            "ReLU networks of 2 and 3 layers, a step of gradient descent in float64: to 1e-9",
            edge.norm_law,
            "proved",
        ),
        *(
            (
                f"Chebyshev polynomial, {name}",
                chebyshev,
                f"the {name} reaches the edge of stability with many directions, and stays there",
                f"{seeds}, every width, 0.9 and 1.1 times the critical rate, all runs: eta times the sharpness is "
                f"2 ± {edge.NEAR_TWO:g} on average over the second half; at {edge.SLOW_RATE:g} it is reported",
                edge.reaches_the_edge(model),
                "observed",
            )
            for model, name in models.items()
        ),
        (
            "Chebyshev polynomial",
            chebyshev,
            "at these rates the quadratic model's loss ends higher than the network's, the wider the less",
            f"{seeds}, paired, median of the last tenth: at every width the 95 % interval of the mean logarithm lies "
            "above 0, and its mean falls with the width",
            edge.loss_at_the_edge,
            "observed",
        ),
    ):
        yield Claim("edge of stability", panel, sweep, statement, rule, check, status=status, where=("10",))


def _features():
    """Catapults and the average gradient outer product."""
    seeds = f"{FEWEST_SEEDS} seeds or more"
    smallest = min(alignment.BATCHES)
    for panel, sweep, statement, rule, check, beside in (
        *(
            (
                f"gradient descent, {name}, quadratic model",
                sweep,
                "a catapult raises the alignment of the quadratic model's AGOP, too, and lowers its test loss",
                f"trained out, at {alignment.ABOVE:g} times the critical rate, paired over {seeds} with the best of "
                f"its runs at {', '.join(f'{rate:g}' for rate in alignment.BELOW)} times that have no catapult: both "
                "95 % intervals lie above 0",
                alignment.catapult_gains("f_quad"),
                (),
            )
            for name, sweep in (("ReLU", "features_gd"), ("Swish", "features_gd_swish"))
        ),
        (
            "gradient descent, ReLU, quadratic model",
            "features_gd",
            "far above critical a ReLU network's quadratic model has a higher test loss than below, the network lower",
            f"the quadratic model trained out, at {features.BEYOND:g} against 0.9 times the critical rate, {seeds} "
            "that do not diverge: the 95 % interval of the ratio of the test losses lies above "
            f"{features.WORSE:g}, the network's below 1",
            features.collapses,
            (),
        ),
        (
            "gradient descent, Swish",
            "features_gd_swish",
            f"with a smooth activation network and quadratic model are aligned alike up to {features.ALIKE_AT[-1]:g} "
            "times the critical rate",
            f"95 % interval of the difference within ± {features.ALIKE:g} at {len(features.ALIKE_AT)} rates, {seeds}",
            features.alike,
            (),
        ),
        *(
            (
                f"mini-batches, ReLU, quadratic model: {what}",
                "features_sgd",
                f"of the quadratic model, too, smaller batches have {better}",
                f"as for the network: batches of {smallest} against the whole one, and the rank correlation",
                alignment.smaller_batches("f_quad", column),
                (),
            )
            for what, better, column in (
                ("catapults", "more catapults", "catapults"),
                ("alignment", "a better alignment", "agop_alignment"),
                ("test loss", "a lower test loss", "test_loss"),
            )
        ),
        *(
            (
                f"mini-batches, ReLU, {name}: control",
                "features_sgd_slow",
                "a small batch at a small rate has no catapults, and less than a quarter of its gain over gradient "
                "descent at six times the rate",
                f"batches of {features.CONTROL} at {features.SLOW:g} times the critical rate, trained out, over "
                f"{seeds}: no catapult, and a gain over gradient descent below {100 * features.SMALL_SHARE:.0f} % of "
                f"that at {features.FAST:g} times, by the 95 % interval",
                features.control(model),
                ("features_sgd",),
            )
            for name, model in (("network", "f"), ("quadratic model", "f_quad"))
        ),
        *(
            (
                f"mini-batches, ReLU, {name}: criterion",
                "features_sgd",
                "a batch's loss rises in a step only where the rate is above that batch's own critical rate",
                f"no exception in the recorded steps, {features.FEWEST_STEPS} or more on each side",
                features.batch_criterion(model),
                (),
            )
            for name, model in (("network", "f"), ("quadratic model", "f_quad"))
        ),
        (
            "gradient descent and mini-batches, ReLU",
            "features_gd",
            "gradient descent above its critical rate does as well as the best batch size at one rate below it",
            f"paired over {seeds}, its rate chosen on the other seeds: by the 95 % interval its test loss is above "
            f"that of the best batch size by at most {100 * features.MARGIN:.0f} % of its gain on the whole batch",
            features.descent_matches_batches("f"),
            ("features_sgd",),
        ),
    ):
        yield Claim(
            "features",
            panel,
            sweep,
            statement,
            rule,
            check,
            status="observed",
            beside=beside,
            where=("13", "features.agop_alignment", "features.catapults"),
        )
    for depth, name, layer in ((2, "weights", 1), (2, "change", 1), (3, "weights", 1), (3, "change", 1)):
        yield Claim(
            "features",
            f"neural feature ansatz, {depth} layers, layer {layer}, {name}",
            "features_ansatz",
            f"the {name} of the first layer correlate with the root of the AGOP more than with the AGOP"
            if name == "weights"
            else "the change of the first layer correlates with the root of the AGOP more than with the AGOP",
            f"Pearson correlation of W^T W, or of that of the change, after training: 95 % interval over {seeds} of "
            "the difference above 0",
            ansatz.root_is_better(depth, name, layer),
            status="observed",
            where=("features.feature_correlation", "features.neural_feature_matrix"),
        )
    for depth, layer in ((2, 1), (3, 1), (3, 2)):
        yield Claim(
            "features",
            f"neural feature ansatz, {depth} layers, layer {layer}, change",
            "features_ansatz",
            "from a standard normal start, near which weights stay, it is their change that has the AGOP's features",
            f"Pearson correlation of the change's W^T W with the AGOP above {ansatz.HIGH:g} by the 95 % interval over "
            f"{seeds}",
            ansatz.correlates(depth, f"change_{layer}"),
            status="observed",
            where=("features.feature_correlation", "features.neural_feature_matrix"),
        )
    for depth, layer in ((2, 1), (3, 1), (3, 2)):
        yield Claim(
            "features",
            f"neural feature ansatz from a small start, {depth} layers, layer {layer}",
            "features_ansatz_scales",
            "from a start of standard deviation 0.1 it holds in every layer",
            f"Pearson correlation of W^T W with the AGOP after training above {ansatz.HIGH:g}, and above that at the "
            f"start, by the 95 % intervals over {seeds}",
            feature_settings.at_each("hidden_variance", (0.01,), ansatz.correlates(depth, f"weights_{layer}")),
            status="observed",
            where=("14", "features.feature_correlation"),
        )
    for layer in (1, 2):
        yield Claim(
            "features",
            f"neural feature ansatz from small starts, 3 layers, layer {layer}: power",
            "features_ansatz_scales",
            "the weights of three layers correlate with the third root of the AGOP more than with its root",
            f"starts of standard deviation 0.1 and 0.3, each: 95 % interval of the difference over {seeds} above 0",
            feature_settings.at_each("hidden_variance", (0.01, 0.09), ansatz.inverse_depth_is_better(3, layer)),
            status="observed",
            where=("14", "features.feature_correlation"),
        )
    for n, d in machines.SIZES:
        yield Claim(
            "features",
            f"recursive feature machine, {n} examples of {d} inputs",
            "",
            "the root of the AGOP in the kernel ends with a lower test error than the AGOP itself",
            f"iteration {machines.LAST}: 95 % interval of the ratio over {machines.SEEDS} draws above 1",
            machines.root_is_better(n, d),
            status="observed",
            where=("features.recursive_feature_machine",),
        )


def _feature_causes():
    """What of a catapult's gain is cause."""
    seeds = f"{FEWEST_SEEDS} seeds or more"
    both = (("network", "f"), ("quadratic model", "f_quad"))
    quiet, loud = feature_causes.QUIET, feature_causes.LOUD
    far = f"{feature_causes.FAR:g} times the critical rate"
    for panel, sweep, statement, rule, check, beside, notebook in (
        *(
            (
                "mini-batches, ReLU, network: noise",
                "features_noise",
                statement,
                f"single examples at {quiet[0]:g} times the critical rate against batches of {loud[1]} at {loud[0]:g}, "
                f"so that rate over size is the same, trained out, over {seeds}: no single example above its own "
                f"critical rate in any recorded step, and by the 95 % interval {rule}",
                check,
                ("features_gd",),
                "13",
            )
            for statement, rule, check in (
                (
                    "noise of the same size without catapults has less than a quarter of the gain of batches with them",
                    "no catapult, and a gain over gradient descent below "
                    f"{100 * feature_causes.LITTLE:.0f} % of that of the batches",
                    feature_causes.noise_gains_little,
                ),
                (
                    "noise of the same size gains at least half as much where no batch exceeds its own critical rate",
                    f"a gain over gradient descent above {100 * feature_causes.ENOUGH:.0f} % of that of the batches",
                    feature_causes.noise_is_enough,
                ),
            )
        ),
        *(
            (
                f"raised rates, ReLU, {name}: {what}",
                "features_raises",
                f"each further small raise of the rate ends with a {better}",
                f"first raise to 1.09 times the critical rate, each further by 1.3, trained out, over {seeds}: the "
                "95 % intervals of the rank correlation with the number of raises, 0 to 4, and of the difference of "
                "four to one lie on the side of better",
                feature_causes.raises(model, column, 0.95),
                (),
                "13",
            )
            for name, model in both
            for what, better, column in (
                ("alignment", "better alignment", "agop_alignment"),
                ("test loss", "lower test loss", "test_loss"),
            )
        ),
        *(
            (
                f"optimisers, ReLU: {what}",
                "features_optimizers",
                f"across optimisers a better alignment goes with a lower test loss, {of}",
                "Adam, RMSprop, Adagrad, plain and heavy-ball gradient descent on batches of 16, trained out: the 95 % "
                f"interval over {seeds} of the rank correlation of alignment and test loss lies below 0",
                check,
                (),
                "13",
            )
            for what, of, check in (
                ("all runs", "of runs at all rates", feature_causes.optimizers_agree),
                ("tuned", "one run each, its rate chosen on the other seeds", feature_causes.tuned_optimizers_agree),
            )
        ),
        (
            "gradient descent, ReLU, quadratic model: gates that flip",
            "features_gates",
            "far above critical most of the quadratic model's test error lies where gates have flipped",
            f"at {far}, trained out: the 95 % interval over {seeds} that do not diverge of the share of the squared "
            "test error along the difference from the network at the same weights lies above "
            f"{feature_causes.MOST:g}, and above the share at {feature_causes.NEAR:g} times",
            feature_causes.moving_gates,
            (),
            "14",
        ),
        (
            "gradient descent, ReLU, quadratic model: jumps",
            "features_gates",
            "little of that error is in the model's jumps",
            f"at {far}, trained out, weights as they are: sigmoids in the place of the gates take away less than "
            f"{100 * feature_causes.FEW:.0f} % of the test loss, by the 95 % interval over {seeds}",
            feature_causes.jumps,
            (),
            "14",
        ),
        (
            "gradient descent, ReLU, quadratic model: unseen",
            "features_gates",
            "most of that error is a part of the model that is zero on every training example, and that lowers the "
            "test loss at smaller rates",
            f"95 % interval over {seeds} of its share of the squared test error above {feature_causes.MOST:g} at "
            f"{far}, below 0 at {alignment.ABOVE:g} times",
            feature_causes.unseen,
            (),
            "14",
        ),
        *(
            (
                f"gradient descent, from Swish to ReLU, quadratic model{what}",
                "features_sharpness",
                statement,
                f"h/(1 + exp(-s h)), s = 1 to 16 and ReLU, trained out, {seeds}, test loss at {feature_causes.FAR:g} "
                f"over that at {feature_causes.NEAR:g} times the critical rate: by the 95 % interval {rule}",
                check,
                ("features_gd_swish", "features_gd"),
                "14",
            )
            for what, statement, rule, check in (
                (
                    "",
                    "the nearer a smooth activation is to ReLU, the more the quadratic model loses far above critical",
                    "its rank correlation with s, and the difference of its logarithm between ReLU and Swish, lie "
                    "above 0",
                    feature_causes.sharper_is_worse,
                ),
                (
                    ": smooth",
                    "with a smooth activation, without any jump, it fails as well",
                    f"it lies above {feature_causes.WORSE:g} at s = {feature_causes.SMOOTH:g}",
                    feature_causes.smooth_ones_fail,
                ),
            )
        ),
    ):
        where = (notebook, "features.agop_alignment")
        yield Claim("features", panel, sweep, statement, rule, check, status="observed", beside=beside, where=where)


# Pairs of images, and their sweeps.
IMAGES = {
    "MNIST 4 and 9, FC": "features_mnist",
    "MNIST 4 and 9, CNN": "features_mnist_cnn",
    "CIFAR-2, FC": "features_cifar2",
    "CIFAR-2, CNN": "features_cifar2_cnn",
    "SVHN-2, FC": "features_svhn2",
    "SVHN-2, CNN": "features_svhn2_cnn",
}


def _feature_settings():
    """Where a catapult gains: widths, spectra, tasks, images."""
    seeds = f"{FEWEST_SEEDS} seeds or more"
    best = "the best below without a catapult"
    below = f"at {alignment.ABOVE:g} times the critical rate, paired over {seeds} with {best}"
    both = (("network", "f"), ("quadratic model", "f_quad"))
    for name, model in both:
        gains = alignment.catapult_gains(model)
        for panel, sweep, statement, rule, check, beside in (
            (
                f"widths, ReLU, {name}",
                "features_widths",
                "at widths from 128 to 1,024 a catapult raises the alignment, and lowers the test loss",
                f"trained out, {below}: both 95 % intervals lie above 0 at each width",
                feature_settings.at_each("width", feature_settings.WIDTHS, gains),
                ("features_gd",),
            ),
            *(
                (
                    f"anisotropic inputs, variances {variances}, ReLU, {name}",
                    sweep,
                    "with inputs of unequal variances, too, a catapult raises the alignment, and lowers the test loss",
                    f"variances in proportion to {variances}, trained out, {below}: both 95 % intervals lie above 0",
                    feature_settings.at_each("spectrum", (spectrum,), gains),
                    (),
                )
                for variances, spectrum, sweep in (
                    ("i^-0.5", 0.5, "features_spectrum"),
                    ("1/i", 1.0, "features_spectrum_long"),
                )
            ),
            (
                f"eight tasks, ReLU, {name}",
                "features_tasks",
                "a catapult raises the energy of the first layer in the subspace that eight tasks share",
                f"4 of 20 inputs, {below}: the 95 % interval of the difference lies above 0",
                feature_settings.rises(model, "energy", "{:.3f}"),
                (),
            ),
            (
                f"MNIST 4 and 9, FC, {name}",
                "features_mnist",
                "a catapult raises the alignment with that of a machine that knows far more examples, and lowers the "
                "test loss",
                f"trained out, {below}: both 95 % intervals lie above 0",
                gains,
                (),
            ),
            *(
                (
                    f"{images}, {name}",
                    sweep,
                    "a catapult raises the alignment with that of a machine or network that knows far more examples",
                    f"{below}: the 95 % interval of the difference lies above 0",
                    feature_settings.rises(model, "agop_alignment", "{:.4f}"),
                    (),
                )
                for images, sweep in IMAGES.items()
                if sweep != "features_mnist"
            ),
            *(
                (
                    f"{images}, {name}: accuracy",
                    sweep,
                    "a catapult raises the test accuracy",
                    f"{below}: the 95 % interval of the difference lies above 0",
                    feature_settings.rises(model, "test_accuracy", "{:.1f} %", times=100),
                    (),
                )
                for images, sweep in IMAGES.items()
            ),
        ):
            where = ("13", "features.agop_alignment")
            yield Claim("features", panel, sweep, statement, rule, check, status="observed", beside=beside, where=where)


def peak_law(frame):
    """The mean over seeds of the peak over its law, at each rate."""
    runs = theorems.catapults(frame, label=0.0)
    runs = runs[(runs["width"] == runs["width"].max()) & (runs["learning_rate_ratio"] < LAW_UP_TO)]
    if runs["seed"].nunique() < FEWEST_SEEDS:
        return unknown(f"{runs['seed'].nunique()} seeds are recorded, {FEWEST_SEEDS} are needed")
    rate = runs["learning_rate"].to_numpy()
    u = 2 * theorems.coupling(runs) * rate**2 * runs["peak_loss"].to_numpy()
    errors = u / np.asarray(dynamics.peak_u_series(rate * runs["lambda_1_first"].to_numpy())) - 1
    ratios = runs["learning_rate_ratio"].to_numpy()
    found = {ratio: errors[ratios == ratio] for ratio in sorted(set(ratios))}
    intervals = [Interval.of(values) for values in found.values()]
    measured = "; ".join(f"at {ratio:g} off by {estimated_percent(values)}" for ratio, values in found.items())
    return Finding(measured, all(i.low <= LAW_ERROR and i.high >= -LAW_ERROR for i in intervals))


@functools.cache
def invariant():
    """How the largest change of the invariant along a catapult scales with delta."""
    deltas = np.array([0.04, 0.06, 0.08, 0.12, 0.16])
    changes = []
    for delta in deltas:
        # From nothing, to rest: far enough from both that what is left is below the change.
        u, v = 1e-7 * delta**8, 2 + delta
        start, largest = dynamics.adiabatic_invariant(u, v), 0.0
        while v > 2 or u > 1e-7 * delta**8:
            u, v = (1 - v + u) ** 2 * u, v - u * (4 - v)
            largest = max(largest, abs(dynamics.adiabatic_invariant(u, v) - start))
        changes.append(largest)
    exponent = np.polyfit(np.log(deltas), np.log(changes), 1)[0]
    return Finding(f"exponent {exponent:.2f}", bool(6.5 <= exponent <= 7.5))


@functools.cache
def certificate():
    """Random starts of the one-example map, iterated, against the sign of ``4 - v_0 + w_0``."""
    rng = np.random.default_rng(0)
    beta, v = rng.uniform(-0.999, 0.999, STARTS), rng.uniform(0, 6, STARTS)
    # All that a network can have: |z + beta| <= v / 2.
    z = rng.uniform(-1, 1, STARTS) * v / 2 - beta
    certified = 4 - v + beta * z > 0
    with np.errstate(all="ignore"):  # of runs that diverge
        for _ in range(STEPS):
            z, v = (1 - v + z**2 + beta * z) * z, v - z**2 * (4 - v) - 4 * beta * z
    converged = np.abs(z) < 1e-6
    diverged = ~np.isfinite(z)
    undecided = int((~converged & ~diverged).sum())
    wrong = int((converged != certified)[converged | diverged].sum())
    return Finding(
        f"{certified.sum():,} with it, {(~certified).sum():,} without; {wrong} exceptions, {undecided} undecided",
        wrong == 0 and undecided == 0,
    )


def rates_of_figure_3(frame):
    """Erratum 3: the critical rates of the recorded draws, for both losses."""
    runs = runs_of(frame)
    starts = frame[frame["step"] == 0].drop_duplicates("seed")
    if len(starts) < FEWEST_SEEDS:
        return unknown(f"{len(starts)} seeds are recorded, {FEWEST_SEEDS} are needed")
    n = runs["n_train"].iloc[0]
    mse = np.stack([n / starts["lambda_1"], n / starts["lambda_2"]])
    half_sum = 2 * mse / n
    printed = np.array([0.37, 0.39])
    near = np.abs(printed - mse.mean(axis=1)) < 2.5 * mse.std(axis=1, ddof=1)
    means = ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mse.mean(axis=1), mse.std(axis=1, ddof=1), strict=True))
    return Finding(
        f"mse {means}; half_sum at most {half_sum.max():.4f} ({len(starts)} seeds)",
        bool(near.all() and half_sum.max() < printed.min()),
    )


def _erratum(check):
    with jax.enable_x64(True):
        corrected, printed = _errors(check)
    # Rounding differs between processors: its size is no number to quote.
    ours = "exact to rounding" if corrected < RIGHT else f"off by {corrected:.1g}"
    return Finding(f"corrected {ours}, printed off by {printed:.2g}", corrected < RIGHT and printed > WRONG)


@functools.cache
def _errors(check):
    return check()
