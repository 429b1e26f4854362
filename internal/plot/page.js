// Shows the numbers of plots under the pointer. They are read from the plots
// themselves.
(() => {
  "use strict";
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  const most = 8; // lines in a tip
  const text = (x) => {
    const size = Math.abs(x);
    if (size >= 1e4) return Math.round(x).toLocaleString("en-US");
    return size && size < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));
  };
  const at = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const show = (event, lines) => {
    tip.replaceChildren(...lines.flatMap(({ label, colour }, i) => {
      const parts = [i ? "\n" : ""];
      if (colour) {
        const dot = document.createElement("i");
        dot.className = colour;
        parts.push(dot);
      }
      return [...parts, label];
    }));
    tip.style.display = "block";
    const { width, height } = tip.getBoundingClientRect();
    const right = event.clientX + 16 + width < innerWidth;
    tip.style.left = Math.max(4, right ? event.clientX + 16 : event.clientX - 16 - width) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4)) + "px";
  };
  const watch = (svg, move, leave) => {
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerleave", () => { tip.style.display = "none"; leave(); });
  };

  for (const svg of document.querySelectorAll("svg.lines")) {
    const [x0, x1, y0, y1] = svg.dataset.box.split(" ").map(Number);
    const [left, right, low, high] = svg.dataset.range.split(" ").map(Number);
    const log = svg.dataset.log === "1";
    const cross = svg.querySelector(".cross");
    const x = (px) => left + (px - x0) / (x1 - x0) * (right - left);
    const y = (py) => {
      const share = (y1 - py) / (y1 - y0);
      return log ? low * (high / low) ** share : low + share * (high - low);
    };
    let lines;
    const read = () => [...svg.querySelectorAll("path[data-name]")].map((path) => ({
      name: path.dataset.name,
      colour: path.dataset.colour,
      points: path.getAttribute("d").slice(1).split(/[ML]/).map((p) => p.split(" ").map(Number)),
    }));
    watch(svg, (event) => {
      lines ??= read();
      const p = at(svg, event);
      const near = lines.map((l) => {
        let best = l.points[0];
        for (const q of l.points) if (Math.abs(q[0] - p.x) < Math.abs(best[0] - p.x)) best = q;
        return { ...l, point: best };
      }).filter((l) => l.point && Math.abs(l.point[0] - p.x) < 25);
      if (!near.length) return;
      const nearest = near.reduce((a, b) => Math.abs(b.point[0] - p.x) < Math.abs(a.point[0] - p.x) ? b : a).point[0];
      const shown = near.sort((a, b) => Math.abs(a.point[1] - p.y) - Math.abs(b.point[1] - p.y)).slice(0, most).sort((a, b) => a.point[1] - b.point[1]);
      cross.setAttribute("x1", nearest);
      cross.setAttribute("x2", nearest);
      cross.style.visibility = "visible";
      show(event, [{ label: `${svg.dataset.x} ${text(Math.round(x(nearest)))}` }, ...shown.map((l) => ({ label: `${l.name}  ${text(y(l.point[1]))}`, colour: l.colour }))]);
    }, () => { cross.style.visibility = "hidden"; });
  }

  for (const svg of document.querySelectorAll("svg.heatmap")) {
    const [x0, x1, y0, y1] = svg.dataset.box.split(" ").map(Number);
    const rows = svg.dataset.rows.split("\n"), columns = svg.dataset.columns.split("\n");
    const mark = svg.querySelector(".mark");
    let values;
    watch(svg, (event) => {
      values ??= svg.dataset.values.split(";").map((r) => r.split(" "));
      const p = at(svg, event);
      const i = Math.floor((p.y - y0) / (y1 - y0) * rows.length), j = Math.floor((p.x - x0) / (x1 - x0) * columns.length);
      const value = values[i]?.[j];
      if (!value) return;
      const w = (x1 - x0) / columns.length, h = (y1 - y0) / rows.length;
      for (const [name, v] of Object.entries({ x: x0 + j * w, y: y0 + i * h, width: w, height: h })) mark.setAttribute(name, v);
      mark.style.visibility = "visible";
      show(event, [{ label: `${svg.dataset.row} ${rows[i]}, ${svg.dataset.column} ${columns[j]}` }, { label: value === "-" ? "nothing" : value }]);
    }, () => { mark.style.visibility = "hidden"; });
  }
})();
