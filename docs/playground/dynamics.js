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
  // With momentum: a run from almost nothing starts at this share of delta, and has diverged where v is beyond LOST.
  const NOTHING_FROM_REST = 1e-6;
  const LOST = 1e4;
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

  // Heavy ball from rest: X and Y, now and one step before, with X^2 = v/2 + (z + beta) and Y^2 = v/2 - (z + beta).

  function heavy_ball_state(prediction, kernel, learning_rate, c) {
    const size = (learning_rate * kernel) / 2;
    const signed = Math.sqrt(c) * learning_rate * prediction;
    if (Math.abs(signed) > size) throw new RangeError("kernel must be at least 2 sqrt(c) |prediction|");
    const x = Math.sqrt(size + signed);
    const y = Math.sqrt(size - signed);
    return { x, x_before: x, y, y_before: y };
  }

  function heavy_ball_step({ x, x_before, y, y_before }, momentum, beta = 0) {
    const z = (x * x - y * y) / 2 - beta;
    return {
      x: (1 + momentum - z) * x - momentum * x_before,
      x_before: x,
      y: (1 + momentum + z) * y - momentum * y_before,
      y_before: y,
    };
  }

  function heavy_ball_observables({ x, y }, beta = 0) {
    return { z: (x * x - y * y) / 2 - beta, v: x * x + y * y };
  }

  // Of a state within the slack of `possible`: the kernel is what a network with that output has.
  function from_rest({ z, v }, beta = 0) {
    return heavy_ball_state(z + beta, Math.max(v, 2 * Math.abs(z + beta)), 1, 1);
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

  function stable_interval(beta = 0, momentum = 0) {
    return Math.abs(beta) < 1 + momentum ? [2 * Math.abs(beta), 2 * (1 + momentum)] : null;
  }

  // Laws. Without u0: the limit of a small initial loss, for target 0, as the median over PHASES phases; with `band`
  // [lowest, median, highest]. With momentum that limit is here only from 1e-4 above the critical rate on.

  function peak_u(v0, u0, w0 = 0, { band = false, momentum = 0 } = {}) {
    return law("peak", v0, u0, w0, band, momentum);
  }

  function final_v(v0, u0, w0 = 0, { band = false, momentum = 0 } = {}) {
    return law("end", v0, u0, w0, band, momentum);
  }

  function law(which, v0, u0, w0, band, momentum) {
    if (u0 !== undefined) return end_of_run(u0, v0, w0, momentum)[which];
    const found = momentum ? at_phases_with_momentum(which, v0, momentum) : at_phases(which, v0);
    // With momentum some phases may diverge, which have no end; without, all do or none.
    const ended = found.filter((value) => !Number.isNaN(value));
    const values = (ended.length ? ended : found).sort((a, b) => a - b);
    const median = (values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2;
    return band ? [values[0], median, values[values.length - 1]] : median;
  }

  // Highest u and final v of the run from (u, v, w); with momentum from rest, and its fate is that of the map iterated.
  function end_of_run(u, v, w, momentum = 0, most_steps = MOST_STEPS) {
    if (!momentum) return come_to_rest(u, v, w);
    const z = Math.sqrt(u);
    const beta = z > 0 ? w / z : 0;
    return come_to_rest_with_momentum(from_rest({ z, v }, beta), momentum, beta, most_steps);
  }

  // The regime of a run with momentum, from its start's v and its end.
  function regime_of_end({ peak, end }, v, momentum) {
    if (peak === Infinity) return "divergent";
    if (Number.isNaN(end)) return "undecided";
    return v > 2 * (1 + momentum) ? "catapult" : "monotone";
  }

  function at_phases_with_momentum(which, v0, momentum) {
    const delta = v0 - 2 * (1 + momentum);
    if (delta <= 0) return Array(PHASES).fill(which === "peak" ? 0 : v0);
    if (delta <= SERIES_BELOW) return Array(PHASES).fill(NaN);
    const half = (v0 - 1 - momentum) / 2;
    const growth = -(half + Math.sqrt(Math.max(half ** 2 - momentum, 0)));
    const side = Math.sqrt(v0 / 2);
    return Array.from({ length: PHASES }, (_, i) => {
      // On the unstable manifold of z = 0, to first order: X = X0 + a, Y = X0 - a with a growing by `growth` a step.
      const a = ((NOTHING_FROM_REST * delta) / (2 * side)) * Math.abs(growth) ** ((i + 0.5) / PHASES);
      const begin = { x: side + a, x_before: side + a / growth, y: side - a, y_before: side - a / growth };
      return come_to_rest_with_momentum(begin, momentum, 0)[which];
    });
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

  // Where X and Y would coast to, were z = 0 from here on; the sum of their squares is the v at the end.
  function to_be({ x, x_before, y, y_before }, momentum) {
    return ((x - momentum * x_before) / (1 - momentum)) ** 2 + ((y - momentum * y_before) / (1 - momentum)) ** 2;
  }

  // Whether what is still to come of v matters: each further z takes 4 z (z + beta)/(1 - mu) from it.
  function moving_with_momentum(state, size, v, momentum, beta) {
    if (!(v < LOST) || v === 0) return false;
    // Needless to look closer: `room` is below 2 and `lasts` above 2/(1 - mu).
    if (size > 2e-6) return true;
    const end = to_be(state, momentum);
    const room = Math.min(end, 2 * (1 + momentum) - end);
    const lasts = (1 - momentum) / room + 2 / (1 - momentum);
    const to_come = (4 * size * (size + Math.abs(beta)) * lasts) / (1 - momentum);
    return !(room > 0 && to_come < REST * room && Math.abs(v - end) < 1e-3 * room);
  }

  function come_to_rest_with_momentum(state, momentum, beta, most_steps = MOST_STEPS) {
    const { x_before, y_before } = state;
    let before = Math.abs(heavy_ball_observables({ x: x_before, y: y_before }, beta).z);
    let { z, v } = heavy_ball_observables(state, beta);
    let peak = z * z;
    let steps = 0;
    while (steps < most_steps && moving_with_momentum(state, Math.max(Math.abs(z), before), v, momentum, beta)) {
      before = Math.abs(z);
      state = heavy_ball_step(state, momentum, beta);
      ({ z, v } = heavy_ball_observables(state, beta));
      peak = Math.max(peak, z * z);
      steps++;
    }
    if (!(v < LOST)) return { peak: Infinity, end: NaN };
    const moving_still = moving_with_momentum(state, Math.max(Math.abs(z), before), v, momentum, beta);
    if (moving_still && !(z * z < 1e-12)) return { peak: NaN, end: NaN };
    return { peak, end: to_be(state, momentum) };
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
    end_of_run,
    final_v,
    final_v_series,
    from_rest,
    heavy_ball_observables,
    heavy_ball_state,
    heavy_ball_step,
    iterate,
    kernel_from_v,
    loss_from_u,
    max_learning_rate,
    peak_u,
    peak_u_series,
    possible,
    predict_regime,
    regime_of_end,
    sharpness,
    signed_step,
    stable_interval,
    triangle,
  };
})();
