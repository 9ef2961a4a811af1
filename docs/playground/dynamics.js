// The exact maps and their laws, in plain numbers: names, arguments and order of operations as in nqm_tools.dynamics.
// A classic script, no module: browsers refuse modules from file://, and the page is to open by a double click too.
"use strict";

const dynamics = (() => {
  // Powers of delta = v0 - 2, from the first on: of 2 - v_end, and of the peak at the median phase.
  const FINAL_V_SERIES = [1, 2 / 3, 4 / 9, 14 / 135, -76 / 405];
  const PEAK_U_SERIES = [0, 1 / 2, 1 / 3, 3 / 32];

  const PHASES = 128;
  const MOST_STEPS = 2_000_000;
  const SERIES_BELOW = 1e-4;
  const NOTHING = 1e-12;
  const REST = 1e-11;
  // check_dimensionless allows states that were computed in float32.
  const SLACK = 1e-5;

  // Steps: state -> state.

  function dimensionless_step({ u, v, w }) {
    const factor = 1 - v + u + w;
    return { u: factor * factor * u, v: v - u * (4 - v) - 4 * w, w: factor * w };
  }

  function signed_step({ z, v }, beta = 0) {
    const u = z * z;
    const w = beta * z;
    return { z: (1 - v + u + w) * z, v: v - u * (4 - v) - 4 * w };
  }

  // The states after 0, 1, ..., steps steps.
  function iterate(step, state, steps) {
    const path = [state];
    for (let t = 0; t < steps; t++) path.push(step(path[t]));
    return path;
  }

  // Units.

  const loss_from_u = (u, learning_rate, c) => u / (2 * c * learning_rate ** 2);

  const kernel_from_v = (v, learning_rate) => v / learning_rate;

  // eta times the top eigenvalue of the loss Hessian of the quadratic model (nqm.sharpness). In the basis where the
  // output's Hessian is +-sqrt(c), the loss Hessian is that times r plus a rank-one matrix; two of its directions
  // couple, with trace v and determinant -(3 u + 2 w).
  function sharpness({ u, v, w }) {
    return v / 2 + Math.sqrt(Math.max(v * v / 4 + 3 * u + 2 * w, 0));
  }

  // The regime, from the initial state alone.

  // P and Q of the triangle are sums of squares of weights.
  function possible(u, v, w) {
    return (v + SLACK) ** 2 * u >= 4 * (u + w) ** 2 * (1 - SLACK);
  }

  function predict_regime(u, v, w = 0) {
    if (u === 0) return "monotone";
    if (4 - v + w < 0 || w ** 2 > 4 * u) return "divergent";
    if (w ** 2 === u || w ** 2 === 4 * u || 4 - v + w === 0) return "undecided";
    if (w ** 2 > u) return "edge of stability";
    return Math.abs(1 - v + u + w) > 1 ? "catapult" : "monotone";
  }

  function triangle({ z, v }, beta = 0) {
    return { d: 4 - v + beta * z, p: v + 2 * (z + beta), q: v - 2 * (z + beta) };
  }

  function max_learning_rate(residual, kernel, c, y = 0) {
    const discriminant = kernel ** 2 - 16 * c * residual * y;
    const root = discriminant >= 0 ? 8 / (kernel + Math.sqrt(discriminant)) : Infinity;
    return Math.min(root, 1 / (Math.sqrt(c) * Math.abs(y)));
  }

  function stable_interval(beta = 0) {
    return Math.abs(beta) < 1 ? [2 * Math.abs(beta), 2] : null;
  }

  // Laws. Without u0: the limit of a small initial loss, for target 0, as the median over PHASES phases; with `band`
  // [lowest, median, highest].

  function peak_u(v0, u0, w0 = 0, { band = false } = {}) {
    return law("peak", v0, u0, w0, band);
  }

  function final_v(v0, u0, w0 = 0, { band = false } = {}) {
    return law("end", v0, u0, w0, band);
  }

  function law(which, v0, u0, w0, band) {
    if (u0 !== undefined) return come_to_rest(u0, v0, w0)[which];
    const values = at_phases(which, v0).sort((a, b) => a - b);
    const median = (values[PHASES / 2 - 1] + values[PHASES / 2]) / 2;
    return band ? [values[0], median, values[PHASES - 1]] : median;
  }

  function at_phases(which, v0) {
    if (v0 >= 4) return Array(PHASES).fill(which === "peak" ? Infinity : NaN);
    if (v0 - 2 <= SERIES_BELOW) {
      const near = Math.max(v0, 2);
      const end = v0 < 2 ? v0 : final_v_series(near);
      return Array(PHASES).fill(which === "peak" ? peak_u_series(near) : end);
    }
    return Array.from({ length: PHASES }, (_, i) => {
      const phase = (i + 0.5) / PHASES;
      // On the unstable manifold of (0, v0), to first order in u.
      const u = NOTHING * (v0 - 2) ** 2 * (v0 - 1) ** (2 * phase);
      return come_to_rest(u, v0 - (u * (4 - v0)) / (v0 * (v0 - 2)), 0)[which];
    });
  }

  // Whether what is still to come of v matters: to first order, u and w fall by (1 - v)^2 and 1 - v a step.
  function moving(u, v, w) {
    const room = Math.min(v, 2 - v);
    const to_come = u * (4 - v) + 4 * Math.abs(w) * (2 - v);
    const at_rest = u === 0 || (room > 0 && to_come < REST * room * v * (2 - v));
    const diverged = 4 - v + w < 0 || !(u < Infinity);
    return !(at_rest || diverged);
  }

  function come_to_rest(u, v, w) {
    let peak = u;
    let steps = 0;
    while (steps < MOST_STEPS && moving(u, v, w)) {
      ({ u, v, w } = dimensionless_step({ u, v, w }));
      peak = Math.max(peak, u);
      steps++;
    }
    if (4 - v + w < 0 && u > 0) return { peak: Infinity, end: NaN };
    // Some creep towards v = 0 for ever; others never come to rest.
    if (moving(u, v, w) && !(u < 1e-12)) return { peak: NaN, end: NaN };
    return { peak, end: u > 0 ? v - ((u * (4 - v)) / (v * (2 - v)) + (4 * w) / v) : v };
  }

  function series(coefficients, delta) {
    return coefficients.reduce((sum, coefficient, i) => sum + coefficient * delta ** (i + 1), 0);
  }

  const peak_u_series = (v0) => series(PEAK_U_SERIES, v0 - 2);

  const final_v_series = (v0) => 2 - series(FINAL_V_SERIES, v0 - 2);

  function adiabatic_invariant(u, v) {
    const x = v - 2;
    const fifth = (x * (150 * u ** 2 + 115 * u * x ** 2 + 14 * x ** 4)) / 180;
    const sixth = (3 * u ** 2 * x ** 2) / 8 - (19 * u * x ** 4) / 96 - (205 * x ** 6) / 1728;
    return u + x ** 2 / 2 + x ** 3 / 3 + x ** 4 / 8 - fifth + sixth;
  }

  return {
    FINAL_V_SERIES,
    PEAK_U_SERIES,
    adiabatic_invariant,
    dimensionless_step,
    final_v,
    final_v_series,
    iterate,
    kernel_from_v,
    loss_from_u,
    max_learning_rate,
    peak_u,
    peak_u_series,
    possible,
    predict_regime,
    sharpness,
    signed_step,
    stable_interval,
    triangle,
  };
})();
