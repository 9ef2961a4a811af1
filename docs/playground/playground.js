// What the page listens to: its controls, the pointer, keys, its address, and the game of predicting first.
"use strict";

const playground = (() => {
  const { text } = plot;
  const { EXAMPLES, PARAMETERS, STEPS, clamp, read, state, write } = examples;
  const find = (id) => document.getElementById(id);

  // What has been predicted: ηλ at the end, "never", or nothing yet.
  let guess = null;
  let cursor = 1;
  let shown = null;
  let frame = null;

  function change(values) {
    for (const [name, value] of Object.entries(values)) {
      // Short numbers make short addresses.
      state[name] = name in PARAMETERS ? Number(clamp(name, value).toPrecision(5)) : value;
    }
    guess = null;
    write();
    draw();
  }

  const hidden = () => Boolean(state.tab === "one" && state.predict && guess === null);

  let waiting = false;
  function draw() {
    shown = EXAMPLES[state.tab].run();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      render();
    });
  }

  function render() {
    const { tab } = state;
    for (const name of Object.keys(EXAMPLES)) {
      const chosen = name === tab;
      find(`tab-${name}`).setAttribute("aria-selected", String(chosen));
      find(`tab-${name}`).tabIndex = chosen ? 0 : -1;
      find(`panel-${name}`).hidden = !chosen;
      find(`${name}-steps`).value = String(state.steps);
    }
    for (const name of Object.keys(EXAMPLES[tab].parameters)) {
      const { log } = PARAMETERS[name];
      const input = find(`${tab}-${name}`);
      input.value = String(log ? Math.log10(state[name]) : state[name]);
      input.setAttribute("aria-valuetext", text(state[name]));
      find(`${tab}-${name}-value`).textContent = text(state[name]);
    }
    find("inertia").hidden = !state.momentum;
    find("laws").checked = Boolean(state.laws);
    find("predict").checked = Boolean(state.predict);
    frame = drawing.plane(hidden());
    drawing[tab](frame, shown, hidden());
    if (tab === "one") question();
  }

  // Predict first.

  function question() {
    const asked = Boolean(state.predict);
    find("question").hidden = !asked;
    find("guess").hidden = !asked || guess === "never" || shown.regime === "impossible";
    find("never").hidden = !hidden();
    if (!asked) return;
    const at = guess === null || guess === "never" ? cursor : guess;
    drawing.place(find("guess"), frame, at, PARAMETERS.loss.min * 2, `ηλ at the end ${text(at)}; Enter to answer`);
    find("question-text").textContent = verdict(guess, shown);
  }

  function verdict(said, { regime, end }) {
    const never = regime === "undecided" ? "after two million steps it has not come to rest" : "it never comes to rest";
    if (regime === "impossible") return "No network starts there; move the start.";
    if (said === null) {
      const keys = "or move the diamond with the arrow keys and press Enter";
      return `Where will ηλ end? Click there in the plane (only left and right count); ${keys}.`;
    }
    const rests = !Number.isNaN(end);
    if (said === "never") return rests ? `It does come to rest, at ηλ = ${text(end)}.` : `Right: ${never}.`;
    if (!rests) return `You said ηλ = ${text(said)}; ${never}.`;
    return `You said ηλ = ${text(said)}; it ends at ${text(end)}, ${text(Math.abs(said - end))} away.`;
  }

  function answer(said) {
    if (!hidden()) return;
    guess = said;
    if (said !== "never") cursor = said;
    draw();
  }

  // Input.

  function controls(tab) {
    for (const [name, words] of Object.entries(EXAMPLES[tab].parameters)) {
      const { min, max, step: stride, log } = PARAMETERS[name];
      const id = `${tab}-${name}`;
      const row = document.createElement("div");
      row.innerHTML = `<label for="${id}">${words}</label><input type="range" id="${id}"><output
        id="${id}-value" for="${id}"></output>`;
      const input = row.querySelector("input");
      [input.min, input.max] = (log ? [Math.log10(min), Math.log10(max)] : [min, max]).map(String);
      input.step = String(stride);
      input.addEventListener("input", () => change({ [name]: log ? 10 ** Number(input.value) : Number(input.value) }));
      find(`${tab}-controls`).append(row);
    }
    const select = find(`${tab}-steps`);
    select.append(...STEPS.map((steps) => new Option(String(steps))));
    select.addEventListener("change", () => change({ steps: Number(select.value) }));
    const legend = Object.entries(EXAMPLES[tab].legend).map(
      ([name, words]) => `<li><span style="background:var(--${name})"></span>${words}</li>`,
    );
    find(`${tab}-legend`).innerHTML = `${legend.join("")}<li><span class="blank"></span>no network starts here</li>`;
  }

  function where({ clientX, clientY }, [right, down] = [0, 0]) {
    const { left, top } = find(`${state.tab}-plane`).getBoundingClientRect();
    return frame.inverse(clientX - left - right, clientY - top - down);
  }

  // A mouse drags from anywhere; a finger drags the point and taps elsewhere, so that the page can still be scrolled.
  function pointers(tab) {
    const handle = find(`${tab}-handle`);
    const around = handle.parentElement;
    const asking = () => tab === "one" && Boolean(state.predict);
    let dragging = false;
    let dragged = false;
    // From the middle of the point to where it is held.
    let held = [0, 0];
    const move = (event) => {
      const [v0, height] = where(event, held);
      change({ v0, [EXAMPLES[tab].vertical]: height });
    };
    around.addEventListener("pointerdown", (event) => {
      dragged = false;
      const onPoint = event.target === handle;
      if (event.button !== 0 || (!onPoint && (event.pointerType !== "mouse" || asking()))) return;
      dragging = true;
      around.setPointerCapture(event.pointerId);
      const { left, top, width, height } = handle.getBoundingClientRect();
      held = onPoint ? [event.clientX - left - width / 2, event.clientY - top - height / 2] : [0, 0];
      if (!onPoint) move(event);
    });
    around.addEventListener("pointermove", (event) => {
      if (!dragging) return;
      dragged = true;
      move(event);
    });
    for (const end of ["pointerup", "pointercancel"]) around.addEventListener(end, () => (dragging = false));
    around.addEventListener("click", (event) => {
      if (dragged) return;
      if (asking()) answer(Math.min(Math.max(where(event)[0], 0), PARAMETERS.v0.max));
      else move(event);
    });

    handle.addEventListener("keydown", (event) => {
      const way = arrow(event);
      if (!way) return;
      const { vertical } = EXAMPLES[tab];
      const { step: stride, log } = PARAMETERS[vertical];
      const up = way[1] * stride;
      const height = log ? state[vertical] * 10 ** up : state[vertical] + up;
      change({ v0: state.v0 + way[0] * PARAMETERS.v0.step, [vertical]: height });
    });
  }

  function arrow(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!way) return null;
    event.preventDefault();
    return way.map((part) => part * (event.shiftKey ? 10 : 1));
  }

  function begin() {
    for (const tab of Object.keys(EXAMPLES)) {
      controls(tab);
      pointers(tab);
      find(`tab-${tab}`).addEventListener("click", () => change({ tab }));
    }
    document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
      if (!arrow(event)) return;
      change({ tab: state.tab === "one" ? "two" : "one" });
      find(`tab-${state.tab}`).focus();
    });
    for (const name of ["laws", "predict"]) {
      find(name).addEventListener("change", (event) => change({ [name]: Number(event.target.checked) }));
    }
    find("guess").addEventListener("keydown", (event) => {
      const way = arrow(event);
      if (way && hidden()) {
        cursor = Math.min(Math.max(cursor + 0.01 * (way[0] + way[1]), 0), PARAMETERS.v0.max);
        draw();
      }
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        answer(cursor);
      }
    });
    find("never").addEventListener("click", () => answer("never"));
    find("another").addEventListener("click", () =>
      change({ v0: 1.5 + 2.8 * Math.random(), loss: 10 ** (3 * Math.random() - 2) }),
    );
    find("exercises").addEventListener("click", (event) => {
      if (!event.target.dataset.state) return;
      read(event.target.dataset.state);
      change({ predict: 1 });
      find("one-handle").parentElement.scrollIntoView({ block: "center" });
    });
    window.addEventListener("hashchange", () => {
      guess = null;
      read(location.hash.slice(1));
      draw();
    });
    window.addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    // Inside another page, which has a heading and words of its own.
    document.documentElement.classList.toggle("inside", window.self !== window.top);
    read(location.hash.slice(1));
    draw();
  }

  begin();
  return { state, run: () => shown };
})();
