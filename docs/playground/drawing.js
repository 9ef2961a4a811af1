// What the page shows of a run: plane, charts, sentences, tables.
"use strict";

const drawing = (() => {
  const { axes, element, label, text } = plot;
  const { EXAMPLES, PARAMETERS, state } = examples;
  const find = (id) => document.getElementById(id);
  // With momentum the plane's colours are found by iterating the map: so many steps from each square of so many pixels.
  const PLANE_STEPS = 2000;
  const SQUARE = 3;

  // The plane with its regions and its handle; what it shows of the answer, if it is not hidden.
  function plane(hidden) {
    const { tab } = state;
    const { vertical, xLabel, yLabel, legend, names, outcome } = EXAMPLES[tab];
    const { min, max, log } = PARAMETERS[vertical];
    const y = log ? [min, max] : [0, max];
    const frame = axes(find(`${tab}-plane`), { x: [0, PARAMETERS.v0.max], y, log, xLabel, yLabel, yMost: 9 });
    regions(find(`${tab}-regions`), frame, hidden ? null : outcome);
    const named = new Set();
    for (const [x, height, anchor] of hidden ? [] : names) {
      const words = legend[outcome(x, height)];
      if (!words || named.has(words)) continue;
      frame.inside.append(label(frame.X(x), frame.Y(height), words, anchor, "label name"));
      named.add(words);
    }
    const up = vertical === "loss" ? "loss" : "ratio of the eigenvalues";
    const words = `learning rate times kernel ${text(state.v0)}, ${up} ${text(state[vertical])}`;
    place(find(`${tab}-handle`), frame, state.v0, state[vertical], words);
    return frame;
  }

  function place(handle, frame, x, y, words) {
    handle.style.left = `${frame.X(x)}px`;
    handle.style.top = `${frame.Y(y)}px`;
    handle.setAttribute("aria-valuenow", String(x));
    handle.setAttribute("aria-valuetext", words);
  }

  // Rows of one colour are one rectangle each.
  function regions(canvas, { box, inverse }, outcome) {
    const width = Math.round(box.right - box.left);
    const height = Math.round(box.bottom - box.top);
    const style = getComputedStyle(document.documentElement);
    const colours = {};
    const colour = (name) => (colours[name] ??= style.getPropertyValue(`--${name}`));
    const iterated = state.tab === "one" && state.momentum > 0;
    const depends = state.tab === "one" ? [state.beta, state.momentum] : [state.loss];
    const key = [width, height, colour("catapult"), state.tab, state.width, ...depends, !outcome].join();
    if (canvas.dataset.key === key) return;
    canvas.dataset.key = key;
    Object.assign(canvas, { width, height });
    Object.assign(canvas.style, { left: `${box.left}px`, top: `${box.top}px` });
    canvas.classList.toggle("blank", !outcome);
    if (!outcome) return;
    const context = canvas.getContext("2d");
    const side = iterated ? SQUARE : 1;
    const middle = side / 2;
    for (let row = 0; row < height; row += side) {
      let begin = 0;
      let before = null;
      for (let column = 0; column < width + side; column += side) {
        const place = inverse(box.left + column + middle, box.top + row + middle);
        const name = column < width ? outcome(...place, PLANE_STEPS) : null;
        if (name === before) continue;
        if (before !== null && before !== "impossible") {
          context.fillStyle = colour(before);
          context.fillRect(begin, row, column - begin, side);
        }
        [begin, before] = [column, name];
      }
    }
  }

  // Axes for losses and for kernels against steps. What diverges leaves the picture.
  function charts(tab, losses, kernels, lossLabel, kernelLabel) {
    const drawn = losses.filter((loss) => loss > 0 && loss < Infinity);
    const top = 3 * Math.min(Math.max(...drawn), 1e3 * Math.max(state.width, state.loss));
    const bottom = Math.max(Math.min(...drawn, top / 1e3), top / 1e12) / 2;
    const high = 1.05 * Math.min(Math.max(4.2, ...kernels.filter(Number.isFinite)), 8);
    const steps = { x: [0, state.steps], xLabel: "step" };
    const pair = [
      axes(find(`${tab}-losses`), { ...steps, y: [bottom, top], log: true, yLabel: lossLabel }),
      axes(find(`${tab}-kernels`), { ...steps, y: [0, high], yLabel: kernelLabel }),
    ];
    const critical = tab === "one" ? 2 * (1 + state.momentum) : 2;
    pair[1].line([[0, critical], [state.steps, critical]], "critical");
    return pair;
  }

  function against(chart, values, kind) {
    const points = values.map((value, t) => [t, value]);
    chart.line(points, kind);
    chart.dots(points, `${kind}-dot`);
  }

  // `hidden`: only the start of the run.
  function one(frame, run, hidden) {
    const { rows, law, regime } = run;
    const eta = state.v0;
    const scale = (u) => dynamics.loss_from_u(u, eta, 1 / state.width);
    const lawsToo = state.laws && !hidden;
    if (lawsToo) laws(frame, run, scale);
    const seen = hidden ? rows.slice(0, 1) : rows;
    const points = seen.map(({ v, loss }) => [v, loss]);
    frame.line(points, "path-halo");
    frame.line(points, "path");
    frame.dots(points, "path-dot");

    const values = seen.map(({ loss }) => loss);
    const vs = seen.map(({ v }) => v);
    const sharpness = seen.map((row) => row.sharpness);
    const [losses, kernels] = charts("one", values, [...vs, ...sharpness], "loss L", "ηλ, and η × sharpness");
    if (lawsToo && law) {
      losses.line([[0, law.peak], [state.steps, law.peak]], "law");
      kernels.line([[0, law.end], [state.steps, law.end]], "law");
    }
    kernels.line(sharpness.map((value, t) => [t, value]), "sharpness");
    against(losses, values, "loss");
    against(kernels, vs, "kernel");

    say("one", hidden ? "Predict first: where will it end?" : sentence(run));
    const share = (end) => (Number.isNaN(end) ? "none" : `${text((100 * end) / eta)} %`);
    const facts = [
      ["", "this run", "law, small loss"],
      ["highest loss", text(run.peak), law ? text(law.peak) : "–"],
      ["ηλ at the end", text(run.end), law ? text(law.end) : "–"],
      ["kernel, end over start", share(run.end), law ? share(law.end) : "–"],
    ];
    if (state.momentum) facts.push(["critical ηλ, 2(1 + μ)", text(run.critical), "–"]);
    else {
      facts.push(
        ["D₀ = 4 − v₀ + ω₀", text(run.d), "converges above 0"],
        ["largest ηλ₀ that converges, at this target y", text(run.most), "4 at target 0"],
      );
    }
    if (regime === "impossible") facts.splice(1);
    find("facts").hidden = hidden;
    table(find("facts"), hidden ? [] : facts);
    const numbers = seen.map((row, t) => [t, row.loss, row.v, row.sharpness].map(text));
    table(find("one-numbers"), [["step", "loss L", "ηλ", "η × sharpness"], ...numbers]);
  }

  // The certificate and the conserved quantity are those of gradient descent: with momentum neither is drawn.
  function laws(frame, { rows, law, critical }, scale) {
    const { inside, box } = frame;
    const { min, max } = PARAMETERS.loss;
    const heights = Array.from({ length: 161 }, (_, i) => min * (max / min) ** (i / 160));
    frame.line([[critical, min], [critical, max]], "critical");
    find("one-plane").append(label(frame.X(critical), 14, "critical", "middle"));
    const interval = dynamics.stable_interval(state.beta, state.momentum);
    if (interval) {
      const [from, to] = interval.map(frame.X);
      inside.append(element("rect", { class: "stable", x: from, y: box.bottom - 7, width: to - from, height: 7 }));
    }
    if (interval && !state.momentum) {
      // 4 - v + w = 0 with w = beta z and z = s v.
      const certificate = heights.map((loss) => [4 / (1 - state.beta * Math.sqrt((2 * loss) / state.width)), loss]);
      frame.line(certificate.map(([v, loss]) => [v > 0 ? v : NaN, loss]), "certificate");
      find("one-plane").append(label(frame.X(4), 14, "D₀ = 0", "middle", "label strong"));
    }
    if (!law) return;
    if (!state.momentum) frame.line(level(rows[0], scale), "law");
    frame.line([[law.end, law.peak], [state.v0, law.peak]], "law");
    inside.append(element("path", { class: "law", d: `M${frame.X(law.end)} ${box.bottom}v-26` }));
  }

  // The level curve of the conserved quantity through the start; quadratic in u at each v.
  function level({ u: u0, v: v0 }, scale) {
    const I = dynamics.adiabatic_invariant;
    const curve = [];
    for (let i = 0; i <= 600; i++) {
      const v = v0 * (1 - i / 600);
      const C = I(0, v);
      const A = (I(1, v) + I(-1, v)) / 2 - C;
      const B = (I(1, v) - I(-1, v)) / 2;
      const rest = I(u0, v0) - C;
      const root = B * B + 4 * A * rest;
      if (root < 0 || (rest < 0 && v < 2)) break;
      curve.push([v, scale((2 * rest) / (B + Math.sqrt(root)))]);
    }
    return curve;
  }

  function two(frame, run) {
    const { rows } = run;
    frame.line([[2, 0], [2, 1]], "critical");
    const ratios = Array.from({ length: 61 }, (_, i) => 0.4 + i * 0.01);
    frame.line(ratios.map((ratio) => [2 / ratio, ratio]), "critical");
    frame.line([[4, 0], [4, 1]], "certificate");
    frame.line([[0, 0.5], [4, 0.5]], "law");
    const svg = find("two-plane");
    svg.append(label(frame.X(2), 14, "2/λ₁", "middle"), label(frame.X(4), 14, "4/λ₁", "middle", "label strong"));
    svg.append(label(frame.X(2.9), frame.Y(0.72), "2/λ₂", "start", "label strong"));

    const values = rows.flatMap((row) => row.losses);
    const vs = rows.flatMap(({ v }) => v);
    const [losses, kernels] = charts("two", values, vs, "loss along p₁, p₂", "ηλ₁, ηλ₂");
    for (const [i, kind] of ["kernel", "second"].entries()) {
      against(losses, rows.map((row) => row.losses[i]), kind);
      against(kernels, rows.map(({ v }) => v[i]), kind);
    }
    say("two", sentenceTwo(run));
    const numbers = rows.map((row, t) => [t, ...row.losses, ...row.v].map(text));
    table(find("two-numbers"), [["step", "loss along p₁", "loss along p₂", "ηλ₁", "ηλ₂"], ...numbers]);
  }

  // Words.

  function sentence(run) {
    const { regime, rows, peak, end, d } = run;
    if (regime === "impossible") {
      return "No network starts here: so large a residual and target need a larger kernel (ηλ₀ ≥ 2 |z₀ + β|).";
    }
    if (state.momentum) return sentenceWithMomentum(run);
    if (regime === "divergent") return `Divergent: D₀ = ${text(d)} is negative, and the loss does not vanish.`;
    if (regime === "edge") return "Edge of stability: no point of rest is stable for this target (|β| > 1), and ηλ stays.";
    if (regime === "undecided") return "Undecided: on a boundary, D₀ = 0, |β| = 1 or |β| = 2.";
    if (Number.isNaN(end)) return `${capital(regime)}: it has not come to rest after two million steps.`;
    const fall = `The kernel ends at ${text((100 * end) / state.v0)} % of its start, ηλ = ${text(end)}.`;
    if (!(peak > rows[0].loss)) return `Monotone: the loss only falls. ${fall}`;
    const when = rows.findIndex(({ loss }) => loss >= peak * (1 - 1e-12));
    const where = when > 0 ? ` at step ${when}` : "";
    const first = regime === "catapult" ? "Catapult: the loss" : "Falls at first, then the loss";
    return `${first} peaks at ${text(peak)}${where} and vanishes. ${fall}`;
  }

  function sentenceWithMomentum({ regime, rows, peak, end, critical }) {
    if (regime === "divergent") return "Divergent: by iterating the map; the loss grows without bound.";
    if (regime === "undecided") return "Undecided: after two million steps it has neither come to rest nor diverged.";
    const catapult = regime === "catapult";
    const side = `${catapult ? "above" : "below"} critical, 2(1 + μ) = ${text(critical)}`;
    const fall = `The kernel ends at ${text((100 * end) / state.v0)} % of its start, ηλ = ${text(end)}.`;
    // The first loss is known to rounding only: it is the difference of two squares.
    const rises = peak > rows[0].loss * (1 + 1e-9);
    const when = rows.findIndex(({ loss }) => loss >= peak * (1 - 1e-9));
    const top = rises ? `peaks at ${text(peak)}${when > 0 ? ` at step ${when}` : ""}` : "never exceeds its start";
    if (catapult) return `Catapult (it starts ${side}): the loss ${top} and vanishes. ${fall}`;
    const rise = rises ? ", by inertia only: no catapult," : "";
    return `It starts ${side}: the loss ${top}${rise} and vanishes. ${fall}`;
  }

  function sentenceTwo({ regime, rows, ends }) {
    const words = {
      impossible: "No network starts here: so large a loss needs larger eigenvalues.",
      undecided: "Undecided: on the boundary of divergence.",
      divergent: "Divergent: η is beyond 4/λ₁, and the loss does not vanish.",
      neither: "Neither direction catapults.",
      first: "Only p₁ catapults.",
      second: "Only p₂ catapults.",
      both: "Both directions catapult.",
    };
    if (["impossible", "undecided", "divergent"].includes(regime)) return words[regime];
    const [one, two] = ends.map((end, i) => (Number.isNaN(end) ? "none" : `${text((100 * end) / rows[0].v[i])} %`));
    const crossed = ends[1] > ends[0] && rows[0].v[1] < rows[0].v[0] ? " They have crossed." : "";
    return `${words[regime]} λ₁ ends at ${one} of its start, λ₂ at ${two}.${crossed}`;
  }

  const capital = (words) => words[0].toUpperCase() + words.slice(1);

  function say(tab, words) {
    const target = find(`${tab}-status`);
    if (target.textContent !== words) target.textContent = words;
  }

  function table(target, rows) {
    const caption = target.caption;
    const cells = rows.map((row, i) => {
      const tr = document.createElement("tr");
      tr.append(
        ...row.map((words, j) => {
          const cell = document.createElement(words !== "" && (i === 0 || j === 0) ? "th" : "td");
          if (cell.tagName === "TH") cell.scope = i === 0 ? "col" : "row";
          cell.textContent = words;
          return cell;
        }),
      );
      return tr;
    });
    target.replaceChildren(...(caption ? [caption] : []), ...cells);
  }

  return { one, place, plane, two };
})();
