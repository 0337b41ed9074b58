{
  const root = document.currentScript.parentElement;
  const find = (selector) => root.querySelector(selector);
  const network = JSON.parse(find('script[type="application/json"]').textContent);
  const { sizes, classes } = network;
  const [height, width] = network.shape;

  // The network: the formulas of fcgpu's kernels. Every W, row by row, and b, in one flat vector.

  const bytes = Uint8Array.from(atob(network.params), (c) => c.charCodeAt(0));
  const params = new { float32: Float32Array, float64: Float64Array }[network.dtype](bytes.buffer);

  const hidden = {
    identity: (z) => z,
    sigmoid: (z) => (1 + Math.tanh(z / 2)) / 2,
    tanh: Math.tanh,
    relu: (z) => Math.max(z, 0),
    leaky_relu: (z) => Math.max(z, network.leak * z),
  }[network.activation];

  const output = {
    identity: (Z) => Z,
    exp: (Z) => Z.map(Math.exp),
    sigmoid: (Z) => Z.map((z) => 1 / (1 + Math.exp(-z))),
    softmax(Z) {
      const greatest = Z.reduce((a, b) => Math.max(a, b));
      const e = Z.map((z) => Math.exp(z - greatest));
      const sum = e.reduce((a, b) => a + b);
      return e.map((v) => v / sum);
    },
  }[network.output];

  function logits(pixels) {
    let A = Float64Array.from(pixels, (x) => x * network.scale);
    let at = 0;
    for (let layer = 1; layer < sizes.length; layer++) {
      const n = sizes[layer];
      const W = params.subarray(at, (at += A.length * n));
      const Z = Float64Array.from(params.subarray(at, (at += n)));
      A.forEach((a, i) => {
        if (a) for (let j = 0; j < n; j++) Z[j] += a * W[i * n + j];
      });
      A = layer < sizes.length - 1 ? Z.map(hidden) : Z;
    }
    return A;
  }

  // Unscaled pixels, row by row: what fcgpu's `predict` and `predict_proba` say of one sample.
  root.predict = (pixels) => {
    const Z = logits(pixels);
    const best = Z.length === 1 ? Number(Z[0] > 0) : Z.indexOf(Z.reduce((a, b) => Math.max(a, b)));
    const P = Array.from(output(Z));
    return { label: classes && classes[best], probabilities: classes && P.length === 1 ? [1 - P[0], P[0]] : P };
  };

  // From the paper to pixels of 0 to 1, each the average of the ink in its area.

  const pad = find(".pad");
  const paper = pad.getContext("2d", { willReadFrequently: true });
  const side = 420; // of the paper, in pixels of its own: 15 for each of the network's 28
  pad.width = Math.round(side * Math.min(1, width / height));
  pad.height = Math.round(side * Math.min(1, height / width));

  // For each of n cells: the first of m larger cells that it lies in, and its share of that one and of the next.
  function shares(n, m) {
    return Array.from({ length: n }, (_, i) => {
      const [start, end] = [(i * m) / n, ((i + 1) * m) / n];
      const first = Math.floor(start);
      return [first, Math.min(end, first + 1) - start, Math.max(0, end - first - 1)];
    });
  }

  function shrink(ink, box, columns, rows) {
    const image = new Float64Array((columns + 1) * (rows + 1)); // the last of each takes shares of nothing
    const across = shares(box.width, columns);
    const down = shares(box.height, rows);
    for (let y = 0; y < Math.min(box.height, pad.height - box.top); y++) {
      const [row, here, below] = down[y];
      for (let x = 0; x < Math.min(box.width, pad.width - box.left); x++) {
        const a = ink(box.left + x, box.top + y);
        if (!a) continue;
        const [column, left, right] = across[x];
        const at = row * (columns + 1) + column;
        image[at] += a * here * left;
        image[at + 1] += a * here * right;
        image[at + columns + 1] += a * below * left;
        image[at + columns + 2] += a * below * right;
      }
    }
    return (x, y) => image[y * (columns + 1) + x];
  }

  // The box around all ink, made a square from its upper left corner.
  function box(ink) {
    let [left, top, right, bottom] = [pad.width, pad.height, 0, 0];
    for (let y = 0; y < pad.height; y++) {
      for (let x = 0; x < pad.width; x++) {
        if (!ink(x, y)) continue;
        [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
      }
    }
    const longer = Math.max(right - left, bottom - top);
    return { left, top, width: longer, height: longer };
  }

  // As MNIST's digits were made: fitted into 20x20, then moved by whole pixels until the centre of mass is in the
  // middle of 28x28, the pixel 14 (LeCun, Bottou, Bengio, Haffner 1998).
  function prepare() {
    const { data } = paper.getImageData(0, 0, pad.width, pad.height);
    const ink = (x, y) => data[4 * (y * pad.width + x) + 3] / 255;
    const image = new Float64Array(width * height);
    if (width !== 28 || height !== 28) {
      const whole = { left: 0, top: 0, width: pad.width, height: pad.height };
      const small = shrink(ink, whole, width, height);
      return image.map((_, i) => small(i % width, Math.floor(i / width)));
    }
    const small = shrink(ink, box(ink), 20, 20);
    let [sum, sumX, sumY] = [0, 0, 0];
    for (let y = 0; y < 20; y++) {
      for (let x = 0; x < 20; x++) {
        const a = small(x, y);
        [sum, sumX, sumY] = [sum + a, sumX + a * x, sumY + a * y];
      }
    }
    const [right, down] = [Math.round(14 - sumX / sum), Math.round(14 - sumY / sum)];
    for (let y = Math.max(0, -down); y < Math.min(20, 28 - down); y++) {
      for (let x = Math.max(0, -right); x < Math.min(20, 28 - right); x++) {
        image[(y + down) * 28 + x + right] = small(x, y);
      }
    }
    return image;
  }

  // What is shown.

  const most = 12; // more classes than this: the ten most probable are shown
  const names = classes || Array.from({ length: sizes.at(-1) }, (_, i) => `value ${i + 1}`);
  const bars = Array.from({ length: names.length > most ? 10 : names.length }, () => {
    const row = find(".bars").appendChild(document.createElement("li"));
    const [name, track, number] = ["name", "track", "number"].map((kind) => {
      const part = row.appendChild(document.createElement("span"));
      part.className = kind;
      return part;
    });
    const bar = track.appendChild(document.createElement("span"));
    track.classList.toggle("none", !classes);
    return { row, name, bar, number };
  });
  const percent = (p) => `${(100 * p).toFixed(1)} %`;

  function show(image) {
    const seen = find(".seen");
    [seen.width, seen.height] = [width, height];
    const grey = seen.getContext("2d").createImageData(width, height);
    grey.data.forEach((_, i) => (grey.data[i] = i % 4 === 3 ? 255 : 255 * (image ? image[i >> 2] : 0)));
    seen.getContext("2d").putImageData(grey, 0, 0);

    const { label, probabilities: values } = image ? root.predict(image.map((a) => a * network.ink)) : {};
    const order = [...names.keys()];
    if (bars.length < order.length && values) order.sort((i, j) => values[j] - values[i]);
    bars.forEach(({ row, name, bar, number }, i) => {
      const value = values?.[order[i]];
      name.textContent = name.title = names[order[i]];
      row.className = value !== undefined && names[order[i]] === label ? "best" : "";
      bar.style.width = percent(value ?? 0).replace(" ", "");
      number.textContent = value === undefined ? "" : classes ? percent(value) : value.toPrecision(4);
    });
    const told = !image ? "–" : classes ? label : values.map((v) => v.toPrecision(3)).join(", ");
    const sure = image && classes ? percent(values[classes.indexOf(label)]) : "";
    find(".label").textContent = told;
    find(".label").classList.toggle("long", told.length > 4);
    find(".sure").textContent = sure;
    return image ? (classes ? `${told}, ${sure}` : told) : "The paper is empty";
  }

  // Pen and paper. A stroke is its points, in pixels of the paper.

  const strokes = [];
  const pen = { x: pad.width / 2, y: pad.height / 2, stroke: null };
  let due = 0;

  function draw() {
    paper.clearRect(0, 0, pad.width, pad.height);
    paper.strokeStyle = getComputedStyle(pad).color;
    paper.lineWidth = side / 12; // about the strokes of MNIST's digits, where the drawing is as high as its box
    paper.lineCap = paper.lineJoin = "round";
    for (const points of strokes) {
      paper.beginPath();
      paper.moveTo(points[0].x - 0.01, points[0].y); // a single point is a dot
      for (const { x, y } of points) paper.lineTo(x, y);
      paper.stroke();
    }
    find(".hint").hidden = strokes.length > 0;
    const mark = find(".pen");
    mark.style.left = `${(100 * pen.x) / pad.width}%`;
    mark.style.top = `${(100 * pen.y) / pad.height}%`;
    mark.classList.toggle("down", pen.stroke !== null);
    return show(strokes.length ? prepare() : null);
  }

  // At most once a frame while the pen moves; what is spoken waits until it is lifted.
  function drawSoon() {
    due ||= requestAnimationFrame(() => {
      due = 0;
      draw();
    });
  }

  function say() {
    find(".said").textContent = draw();
  }

  function begin(at) {
    pen.stroke = [at];
    strokes.push(pen.stroke);
    drawSoon();
  }

  function lift() {
    if (pen.stroke) {
      pen.stroke = null;
      say();
    }
  }

  function forget(count) {
    pen.stroke = null;
    strokes.splice(-count, count);
    say();
  }

  const place = (event) => {
    const frame = pad.getBoundingClientRect();
    return {
      x: ((event.clientX - frame.left) * pad.width) / frame.width,
      y: ((event.clientY - frame.top) * pad.height) / frame.height,
    };
  };

  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    pad.setPointerCapture(event.pointerId);
    find(".pen").hidden = true;
    begin(place(event));
  });
  pad.addEventListener("pointermove", (event) => {
    if (!pen.stroke || !event.isPrimary || !pad.hasPointerCapture(event.pointerId)) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    pen.stroke.push(...(passed.length ? passed : [event]).map(place));
    drawSoon();
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, lift);

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey;
    if (event.key === "Backspace" || (command && event.key === "z")) {
      forget(1);
    } else if (command || event.altKey) {
      return;
    } else if (event.key in moves) {
      const step = ((event.shiftKey ? 4 : 1) * side) / 28;
      pen.x = Math.min(pad.width, Math.max(0, pen.x + step * moves[event.key][0]));
      pen.y = Math.min(pad.height, Math.max(0, pen.y + step * moves[event.key][1]));
      pen.stroke?.push({ x: pen.x, y: pen.y });
      drawSoon();
    } else if (event.key === " ") {
      if (pen.stroke) lift();
      else begin({ x: pen.x, y: pen.y });
    } else if (event.key === "Escape" || event.key === "Delete") {
      forget(strokes.length);
    } else {
      return;
    }
    find(".pen").hidden = false;
    event.preventDefault();
  });
  pad.addEventListener("focus", () => (find(".pen").hidden = !pad.matches(":focus-visible")));
  pad.addEventListener("blur", () => {
    lift();
    find(".pen").hidden = true;
  });
  find(".undo").addEventListener("click", () => forget(1));
  find(".clear").addEventListener("click", () => forget(strokes.length));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  const way =
    width === 28 && height === 28
      ? "It is fitted into 20 × 20 pixels and its centre of mass put in the middle of 28 × 28, as MNIST's digits were."
      : `It is shrunk to ${width} × ${height} pixels.`;
  find(".about").textContent = `The network, ${sizes.join("-")}, runs in this page; the drawing stays here. ${way}`;
  draw();
}
