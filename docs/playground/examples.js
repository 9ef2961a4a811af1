// What the page computes: its parameters, its state (which is its address), and the two examples as functions of it.
"use strict";

const examples = (() => {
  // A slider each. `log`: the slider moves the logarithm. One more parameter of the map is one more entry, its name in
  // EXAMPLES, and its place in `path`, and in what `run` asks of the laws.
  const PARAMETERS = {
    v0: { min: 0.02, max: 5, step: 0.01, begin: 2.5 },
    loss: { min: 1e-3, max: 1e4, step: 0.02, begin: 0.25, log: true },
    beta: { min: -1.2, max: 1.2, step: 0.05, begin: 0 },
    width: { min: 10, max: 1e5, step: 0.05, begin: 1e4, log: true },
    momentum: { min: 0, max: 0.9, step: 0.05, begin: 0 },
    ratio: { min: 0.02, max: 1, step: 0.01, begin: 0.7 },
  };
  const STEPS = [30, 60, 100, 200];
  // Of the laws for a small loss: beyond it a run can step over u = 1, and the end is irregular.
  const LAWS_END = 3.085;
  // With momentum: where the end depends more than this on the phase of the start, a law for all of them says little.
  const LAWS_BAND = 0.1;

  const initial = { tab: "one", steps: 30, laws: 1, predict: 0 };
  for (const [name, { begin }] of Object.entries(PARAMETERS)) initial[name] = begin;
  const state = { ...initial };
  // In units where λ0 = 1 and ‖x‖² = d (of two directions λ1 = 1 and ‖p‖² = λ): η is v0, and c is λ/m.

  // The states (z, v) of the run from there; the momentum is that of the first tab.
  function path(begin, steps) {
    const { beta, momentum } = state;
    if (!momentum || steps === 0) return dynamics.iterate((now) => dynamics.signed_step(now, beta), begin, steps);
    return dynamics
      .iterate((now) => dynamics.heavy_ball_step(now, momentum, beta), dynamics.from_rest(begin, beta), steps)
      .map((now) => dynamics.heavy_ball_observables(now, beta));
  }

  // The largest stable kernel, times the learning rate.
  const critical = () => 2 * (1 + state.momentum);

  function observables({ z, v }) {
    return { u: z * z, v, w: state.beta * z };
  }

  const EXAMPLES = {
    one: {
      parameters: {
        v0: "learning rate <i>ηλ</i>₀",
        loss: "starting loss <i>L</i>₀",
        beta: "target <i>β</i>",
        width: "width <i>m</i>",
        momentum: "momentum <i>μ</i>",
      },
      vertical: "loss",
      xLabel: "ηλ  (of the start: ηλ₀)",
      yLabel: "loss L",
      legend: {
        monotone: "monotone",
        catapult: "catapult",
        divergent: "divergent",
        edge: "edge of stability",
        undecided: "undecided",
      },
      // Where the plane says which region it is: place, and which end of the words is there.
      get names() {
        return [[0.08, 1.6e-3, "start"], [1.95 + critical() / 2, 1.6e-3, "middle"], [4.95, 1.6e-3, "end"]];
      },

      // With momentum no formula decides: the map is iterated, `most` steps if that is said.
      outcome(v0, loss, most) {
        const { u, v, w } = observables(start(v0, loss));
        if (!dynamics.possible(u, v, w)) return "impossible";
        if (state.momentum) return dynamics.regime_of_end(fate(u, v, w, most), v, state.momentum);
        const regime = dynamics.predict_regime(u, v, w);
        return regime === "edge of stability" ? "edge" : regime;  // a colour's name has no spaces
      },

      run() {
        const regime = this.outcome(state.v0, state.loss);
        const begin = start(state.v0, state.loss);
        const scale = (u) => dynamics.loss_from_u(u, state.v0, 1 / state.width);
        const states = path(begin, regime === "impossible" ? 0 : state.steps);
        const rows = states.slice(0, finite(states)).map((now) => {
          const seen = observables(now);
          return { ...seen, loss: scale(seen.u), sharpness: dynamics.sharpness(seen) };
        });
        const { u, v, w } = observables(begin);
        const y = state.beta / (Math.sqrt(1 / state.width) * state.v0);
        const { peak, end } = regime === "impossible" ? { peak: NaN, end: NaN } : fate(u, v, w);
        return {
          regime,
          rows,
          d: dynamics.triangle(begin, state.beta).d,
          peak: scale(peak),
          end,
          critical: critical(),
          most: dynamics.max_learning_rate(Math.sqrt(2 * state.loss), 1, 1 / state.width, y),
          law: laws(scale),
        };
      },
    },

    two: {
      parameters: {
        v0: "learning rate <i>ηλ</i>₁",
        ratio: "ratio <i>λ</i>₂/<i>λ</i>₁",
        loss: "starting loss <i>L</i>₀",
        width: "width <i>m</i>",
      },
      vertical: "ratio",
      xLabel: "ηλ₁ at the start",
      yLabel: "λ₂/λ₁ at the start",
      legend: {
        neither: "neither catapults",
        first: "only p₁ catapults",
        both: "both catapult",
        second: "only p₂ catapults",
        divergent: "divergent",
      },
      names: [[0.08, 0.04, "start"], [3, 0.04, "middle"], [4.95, 0.04, "end"], [3.25, 0.94, "middle"]],

      outcome(v0, ratio) {
        const regimes = directions(v0, ratio).map(({ u, v, w }) =>
          dynamics.possible(u, v, w) ? dynamics.predict_regime(u, v, w) : "impossible",
        );
        for (const any of ["impossible", "divergent", "undecided"]) if (regimes.includes(any)) return any;
        const [first, second] = regimes.map((regime) => regime === "catapult");
        return first ? (second ? "both" : "first") : second ? "second" : "neither";
      },

      run() {
        const regime = this.outcome(state.v0, state.ratio);
        const begin = directions(state.v0, state.ratio);
        const paths = begin.map((now) =>
          dynamics.iterate(dynamics.dimensionless_step, now, regime === "impossible" ? 0 : state.steps),
        );
        const c = [1 / state.width, state.ratio / state.width];
        const rows = paths[0].slice(0, Math.min(...paths.map(finite))).map((_, t) => ({
          losses: paths.map((path, i) => dynamics.loss_from_u(path[t].u, state.v0, c[i])),
          v: paths.map((path) => path[t].v),
        }));
        const ends = begin.map(({ u, v, w }) => (regime === "impossible" ? NaN : dynamics.final_v(v, u, w)));
        return { regime, rows, ends };
      },
    },
  };

  function start(v0, loss) {
    return { z: Math.sqrt((2 * loss) / state.width) * v0, v: v0 };
  }

  // Two million steps take a while, and regime, peak and end are asked of the same start: the last answer is kept.
  let last = {};
  function fate(u, v, w, most) {
    const { momentum } = state;
    if (most) return dynamics.end_of_run(u, v, w, momentum, most);
    const key = [u, v, w, momentum].join();
    if (last.key !== key) last = { key, ...dynamics.end_of_run(u, v, w, momentum) };
    return last;
  }

  // How many states come before numbers overflow.
  function finite(path) {
    const end = path.findIndex(({ z = 0, u = z * z, v }) => !Number.isFinite(u) || !Number.isFinite(u * v));
    return end < 0 ? path.length : end;
  }

  function directions(v0, ratio) {
    const u = (state.loss / state.width) * v0 ** 2;
    return [
      { u, v: v0, w: 0 },
      { u: ratio * u, v: ratio * v0, w: 0 },
    ];
  }

  // What dynamics says of a run from a small loss, or null where it says nothing.
  function laws(scale) {
    const { v0, beta, momentum } = state;
    if (beta !== 0 || v0 <= critical()) return null;
    if (!momentum) return v0 < LAWS_END ? { peak: scale(dynamics.peak_u(v0)), end: dynamics.final_v(v0) } : null;
    const small = (start(v0, state.loss).z * (1 + momentum)) / (1 - momentum) < v0 - critical();
    if (!small || v0 >= 4) return null;
    const [low, end, high] = dynamics.final_v(v0, undefined, 0, { band: true, momentum });
    const [, peak, highest] = dynamics.peak_u(v0, undefined, 0, { band: true, momentum });
    return high - low < LAWS_BAND && highest < Infinity ? { peak: scale(peak), end } : null;
  }

  // The state and the address.

  function clamp(name, value) {
    const { min, max } = PARAMETERS[name];
    return Math.min(Math.max(value, min), max);
  }

  let writing = 0;

  // What an address does not name, it leaves at its beginning.
  function read(address) {
    clearTimeout(writing);
    const values = new URLSearchParams(address);
    for (const name of Object.keys(initial)) {
      const value = values.get(name) ?? "";
      const number = value.trim() === "" ? NaN : Number(value);
      if (name === "tab") state.tab = Object.keys(EXAMPLES).includes(value) ? value : initial.tab;
      else if (!Number.isFinite(number)) state[name] = initial[name];
      else if (name in PARAMETERS) state[name] = clamp(name, number);
      else if (name === "steps") state.steps = STEPS.includes(number) ? number : initial.steps;
      else state[name] = Number(number !== 0);
    }
  }

  // Not at once: browsers refuse to have the address changed a hundred times in half a minute.
  function write() {
    clearTimeout(writing);
    writing = setTimeout(() => {
      const { tab, ...rest } = state;
      const address = new URLSearchParams({ tab });
      for (const [name, value] of Object.entries(rest)) if (value !== initial[name]) address.set(name, String(value));
      history.replaceState(null, "", `#${address}`);
    }, 400);
  }

  return { EXAMPLES, PARAMETERS, STEPS, clamp, read, state, write };
})();
