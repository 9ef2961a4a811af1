// Axes, lines and markers in SVG; each drawing replaces what its <svg> held.
"use strict";

const plot = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  function element(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // Three digits; powers of ten for the very large and the very small.
  function text(value) {
    if (Number.isNaN(value)) return "none";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    if (size >= 1e5 || (size < 1e-3 && size > 0)) {
      const [digits, power] = value.toExponential(1).split("e");
      return `${digits === "1.0" ? "" : `${digits} × `}10${superscript(Number(power))}`.replace("-", "−");
    }
    return String(Number(value.toPrecision(size >= 1000 ? 4 : 3))).replace("-", "−");
  }

  function superscript(power) {
    const digits = [...String(Math.abs(power))].map((digit) => SUPERSCRIPTS[digit]);
    return (power < 0 ? "⁻" : "") + digits.join("");
  }

  function ticks([low, high], most) {
    const rough = (high - low) / most;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * unit >= rough) * unit;
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  }

  function decades([low, high], most) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const stride = Math.max(1, Math.ceil((last - first + 1) / most));
    const found = [];
    for (let power = first; power <= last; power++) if (power % stride === 0) found.push(10 ** power);
    return found;
  }

  // Empties `svg` and gives it axes; answers the maps between values and pixels, and what draws inside.
  function axes(svg, { x, y, log = false, xLabel, yLabel, xMost = 6, yMost = 6 }) {
    const { width, height } = svg.getBoundingClientRect();
    const box = { left: 54, top: 24, right: width - 10, bottom: height - 36 };
    const scale = log ? Math.log10 : (value) => value;
    const [low, high] = y.map(scale);
    // Far outside is far enough: browsers draw no path to a pixel 1e300.
    const near = (pixel) => Math.min(Math.max(pixel, -1e4), 1e4);
    const X = (value) => near(box.left + ((value - x[0]) / (x[1] - x[0])) * (box.right - box.left));
    const Y = (value) => near(box.bottom - ((scale(value) - low) / (high - low)) * (box.bottom - box.top));
    const inverse = (px, py) => {
      const height_ = low + ((box.bottom - py) / (box.bottom - box.top)) * (high - low);
      return [x[0] + ((px - box.left) / (box.right - box.left)) * (x[1] - x[0]), log ? 10 ** height_ : height_];
    };

    const clip = `${svg.id}-clip`;
    const size = { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top };
    const inside = element("g", { "clip-path": `url(#${clip})` });
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(element("clipPath", { id: clip }, element("rect", size)), inside);
    svg.append(element("rect", { ...size, class: "frame" }));
    for (const value of ticks(x, xMost)) {
      svg.append(element("path", { class: "tick", d: `M${X(value)} ${box.bottom}v5` }));
      svg.append(label(X(value), box.bottom + 17, text(value), "middle"));
    }
    for (const value of log ? decades(y, yMost) : ticks(y, yMost)) {
      svg.append(element("path", { class: "tick", d: `M${box.left} ${Y(value)}h-5` }));
      svg.append(label(box.left - 8, Y(value) + 4, text(value), "end"));
    }
    svg.append(label((box.left + box.right) / 2, height - 4, xLabel, "middle"));
    svg.append(label(4, 14, yLabel, "start"));

    function line(points, kind) {
      let d = "";
      let pen = "M";
      for (const [px, py] of points) {
        const drawn = Number.isFinite(px) && !Number.isNaN(py) && (!log || py > 0);
        if (drawn) d += `${pen}${X(px).toFixed(1)} ${Y(py).toFixed(1)}`;
        pen = drawn ? "L" : "M";
      }
      inside.append(element("path", { class: kind, d }));
    }

    function dots(points, kind, radius = 2.5) {
      for (const [px, py] of points) {
        if (log && !(py > 0)) continue;
        inside.append(element("circle", { class: kind, cx: X(px), cy: Y(py), r: radius }));
      }
    }

    return { X, Y, inverse, box, inside, line, dots };
  }

  function label(x, y, words, anchor, kind = "label") {
    return element("text", { x, y, "text-anchor": anchor, class: kind }, words);
  }

  return { axes, element, label, text };
})();
