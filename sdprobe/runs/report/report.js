
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { made } = data;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const colours = bytes(data.colours);
  // As in the library's own figures: what is low lets the picture through.
  const opacity = Uint8ClampedArray.from({ length: 256 }, (_, level) => Math.round(255 * (level / 255) ** 0.7));
  const placeOf = new Map();
  for (const sheet of data.sheets) {
    new Int32Array(bytes(sheet.numbers).buffer).forEach((number, i) => placeOf.set(number, [sheet, i]));
  }
  const short = (value) => {
    const size = Math.abs(value);
    return size > 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  };
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;

  /** The grey levels of a tile; its sheet is unpacked once. */
  async function levelsOf(number) {
    const [sheet, i] = placeOf.get(number);
    sheet.unpacked ??= unpack(sheet);
    const { pixels, width } = await sheet.unpacked;
    const left = (i % sheet.across) * sheet.width;
    const top = Math.floor(i / sheet.across) * sheet.height;
    const levels = new Uint8Array(sheet.width * sheet.height);
    for (let y = 0; y < sheet.height; y++) {
      for (let x = 0; x < sheet.width; x++) levels[y * sheet.width + x] = pixels[4 * ((top + y) * width + left + x)];
    }
    return { levels, width: sheet.width, height: sheet.height };
  }

  async function unpack(sheet) {
    const image = new Image();
    image.src = "data:image/png;base64," + sheet.png;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return { pixels: context.getImageData(0, 0, canvas.width, canvas.height).data, width: canvas.width };
  }

  /** Where a position is, in words. */
  function inWords(x, y, width, height) {
    const across = ["left", "centre", "right"][Math.min(2, Math.floor((3 * (x + 0.5)) / width))];
    const down = ["upper", "middle", "lower"][Math.min(2, Math.floor((3 * (y + 0.5)) / height))];
    if (down === "middle") return across === "centre" ? "in the centre" : `at the middle ${across}`;
    return `at the ${down} ${across}`;
  }

  class Attention {
    /** The heat maps of one image's words, over its picture. */
    constructor(article, recordings) {
      this.recordings = recordings;
      this.find = (selector) => article.querySelector(selector);
      this.words = [...article.querySelectorAll(".word")];
      this.canvas = this.find(".heat");
      this.stack = this.canvas.parentElement;
      this.scale = this.find(".scale");
      this.state = this.find(".state");
      this.axes = [...article.querySelectorAll(".axis")].map((row) => ({
        name: row.dataset.axis,
        row,
        slider: row.querySelector("input"),
        output: row.querySelector("output"),
        note: row.querySelector(".note"),
      }));
      this.word = null;
      this.recording = null;
      this.unpacked = new Map();
      const photo = this.find(".photo");
      if (photo && photo.naturalWidth >= 256) photo.classList.add("large");
      if (photo) photo.addEventListener("load", () => photo.classList.toggle("large", photo.naturalWidth >= 256));
      this.plain = this.state.textContent = photo ? `${photo.alt}.` : "No word is chosen.";
      this.hooks = this.find(".choose-hook");
      if (this.hooks) this.fillHooks(article);
      this.words.forEach((word, i) => this.listen(word, i));
      for (const { slider } of this.axes) slider.addEventListener("input", () => this.draw());
      for (const radio of article.querySelectorAll(".scales input")) radio.addEventListener("change", () => this.draw());
      const smooth = this.find(".smooth");
      if (smooth) smooth.addEventListener("change", () => this.canvas.classList.toggle("smoothed", smooth.checked));
      article.addEventListener("keydown", (event) => event.key === "Escape" && this.choose(null));
      this.alone = this.find(".alone");
      this.alone.addEventListener("click", () => this.choose(null));
      const bar = this.find(".bar").getContext("2d");
      for (let i = 0; i < 256; i++) {
        bar.fillStyle = `rgb(${colours[3 * i]} ${colours[3 * i + 1]} ${colours[3 * i + 2]})`;
        bar.fillRect(i, 0, 1, 1);
      }
      this.configure();
    }

    fillHooks() {
      const names = this.recordings.map((own) => own.hook);
      // Recordings of one role each count as one with the other role; of hooks that print alike, the number tells them apart.
      this.groups = [];
      this.recordings.forEach((own) => {
        const last = this.groups.at(-1);
        if (last && last[0].hook === own.hook && !last.some((other) => other.role === own.role)) last.push(own);
        else this.groups.push([own]);
      });
      this.groups.forEach((group, i) => {
        const alike = names.filter((name) => name === group[0].hook).length > group.length;
        this.hooks.add(new Option(alike ? `${group[0].hook} (${i + 1})` : group[0].hook, String(i)));
      });
      this.hooks.parentElement.hidden = this.groups.length < 2;
      this.hooks.addEventListener("change", () => { this.configure(); this.draw(); });
    }

    listen(word, i) {
      word.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && this.choose(word));
      word.addEventListener("focus", () => this.choose(word));
      word.addEventListener("click", () => { word.focus(); this.choose(word); });
      word.addEventListener("keydown", (event) => {
        const rightToLeft = getComputedStyle(word).direction === "rtl";
        const moves = { ArrowDown: 1, ArrowUp: -1, ArrowRight: rightToLeft ? -1 : 1, ArrowLeft: rightToLeft ? 1 : -1 };
        let to = null;
        if (event.key in moves) to = this.words[i + moves[event.key]];
        else if (event.key === "Home") to = this.words[0];
        else if (event.key === "End") to = this.words.at(-1);
        else if (event.key === "Enter" || event.key === " ") to = word;
        else return;
        event.preventDefault();
        if (to) to.focus();
        if (to === word) this.choose(word);
      });
    }

    choose(word) {
      if (word === this.word) return;
      this.word = word;
      for (const own of this.words) own.setAttribute("aria-pressed", String(own === word));
      if (word) this.configure();
      this.draw();
    }

    /** Set the sliders to what was recorded of the role of the word. */
    configure() {
      if (!this.recordings.length || !this.hooks) return;
      const group = this.groups[Number(this.hooks.value)];
      const role = this.word ? this.word.dataset.role : group[0].role;
      const found = group.find((own) => own.role === role) ?? null;
      if (found === this.recording && found) return;
      this.recording = found;
      for (const axis of this.axes) {
        const own = found && found.axes[axis.name];
        const before = axis.values ? axis.values[Number(axis.slider.value)] : null;
        axis.values = own ? own.values : [null];
        axis.total = own ? own.total : 0;
        axis.row.hidden = !own;
        axis.slider.max = String(axis.values.length - 1);
        axis.slider.value = String(Math.max(0, axis.values.indexOf(before)));
        axis.slider.hidden = axis.output.hidden = axis.values.length < 2;
        axis.row.classList.toggle("fixed", axis.values.length < 2);
        axis.note.textContent = own ? own.said : "";
        axis.note.hidden = !axis.note.textContent;
      }
      const steps = this.axes.find((axis) => axis.name === "step");
      this.find(".scales").hidden = steps.values.length < 2;
      this.describeAxes();
    }

    describeAxes() {
      for (const axis of this.axes) {
        const value = axis.values[Number(axis.slider.value)];
        const numbers = axis.values.filter((own) => own !== null);
        if (value === null) axis.said = `mean of all ${axis.total}`;
        else axis.said = axis.name === "layer" ? value : `${value} of ${numbers[0]}–${numbers.at(-1)}`;
        axis.output.textContent = axis.said;
        axis.slider.setAttribute("aria-valuetext", `${axis.name} ${axis.said}`);
      }
    }

    /** The maps of the word: numbers of tiles, and ranges. */
    maps() {
      const packed = this.recording && this.recording.words[this.word.dataset.piece];
      if (!packed) return null;
      if (!this.unpacked.has(packed)) {
        const [tiles, ranges] = packed.map((text) => bytes(text).buffer);
        this.unpacked.set(packed, { tiles: new Int32Array(tiles), ranges: new Float32Array(ranges) });
      }
      return this.unpacked.get(packed);
    }

    /** The number of a combination of positions on the axes, of which the last changes first. */
    number(positions) {
      return this.axes.reduce((sum, axis, i) => sum * axis.values.length + positions[i], 0);
    }

    async draw() {
      if (!this.canvas || !this.recordings.length) return;
      this.describeAxes();
      if (!this.word) return this.showAlone(this.plain);
      const word = this.word.dataset.title;
      const maps = this.maps();
      if (!maps) return this.showAlone(`${word}: this recording has no map of it.`);
      const positions = this.axes.map((axis) => Number(axis.slider.value));
      const number = this.number(positions);
      let [low, high] = maps.ranges.subarray(2 * number, 2 * number + 2);
      if (Number.isNaN(low)) return this.showAlone(`${word}: the values of this map are not finite numbers.`);
      if (maps.tiles[number] < 0) return this.showAlone(`${word}: nothing was recorded of it for this step, layer and head.`);
      const turn = (this.turn = Symbol());
      const tile = await levelsOf(maps.tiles[number]);
      if (turn !== this.turn) return;
      const [ownLow, ownHigh] = [low, high];
      if (this.isCommonScale()) [low, high] = this.rangeOverSteps(maps, positions);
      this.paint(tile, ownLow, ownHigh, low, high);
      this.find(".low").textContent = short(low);
      this.find(".high").textContent = short(high);
      const where = this.whereMost(tile, ownHigh);
      const part = this.axes.map((axis, i) => {
        const value = axis.values[positions[i]];
        return value === null ? `all ${axis.name}s` : `${axis.name} ${value}`;
      }).join(", ");
      const scale = this.isCommonScale() ? "one scale for all steps" : "the map's own scale";
      const said = `Attention to ${word}: ${part}. ${where}. The colours are those of ${scale}, from ${short(low)} to ${short(high)}.`;
      this.canvas.hidden = this.scale.hidden = this.alone.hidden = false;
      this.stack.classList.add("shown");
      this.canvas.dataset.shown = `${this.word.dataset.role} ${this.word.dataset.piece} ${number}`;
      this.canvas.setAttribute("aria-label", `Heat map over the ${made}. ${said}`);
      this.state.textContent = said;
    }

    /** Where the maximum of a map is, in words. */
    whereMost(tile, value) {
      const most = tile.levels.indexOf(255);
      if (most < 0) return `It is ${short(value)} everywhere`;
      // Of a video the frames of the map are side by side, in as many columns as rows, or one more.
      const { frames } = this.recording;
      const columns = Math.ceil(Math.sqrt(frames || 1));
      const width = tile.width / columns;
      const height = tile.height / Math.ceil((frames || 1) / columns);
      const [left, top] = [most % tile.width, Math.floor(most / tile.width)];
      const [x, y] = [left % width, top % height];
      const frame = Math.floor(top / height) * columns + Math.floor(left / width) + 1;
      const place = inWords(x, y, width, height) + (frames ? ` of latent frame ${frame} of ${frames}` : "");
      const row = `row ${y + 1} and column ${x + 1} of ${height}×${width}`;
      return `Its maximum, ${short(value)}, is ${place}, in ${row}`;
    }

    isCommonScale() {
      const steps = this.axes.find((axis) => axis.name === "step");
      return steps.values.length > 1 && steps.values[Number(steps.slider.value)] !== null && this.find(".scales input[value=steps]").checked;
    }

    /** The smallest and the largest value in any step, of this layer and head. */
    rangeOverSteps(maps, positions) {
      const at = this.axes.findIndex((axis) => axis.name === "step");
      let [low, high] = [Infinity, -Infinity];
      this.axes[at].values.forEach((step, i) => {
        const number = this.number(positions.map((position, k) => (k === at ? i : position)));
        if (step === null || maps.tiles[number] < 0) return;
        low = Math.min(low, maps.ranges[2 * number]);
        high = Math.max(high, maps.ranges[2 * number + 1]);
      });
      return [low, high];
    }

    paint(tile, ownLow, ownHigh, low, high) {
      this.canvas.width = tile.width;
      this.canvas.height = tile.height;
      const context = this.canvas.getContext("2d", { willReadFrequently: true });
      const pixels = context.createImageData(tile.width, tile.height);
      tile.levels.forEach((level, i) => {
        const value = ownLow + ((ownHigh - ownLow) * level) / 255;
        const shown = low === ownLow && high === ownHigh ? level : Math.round((255 * (value - low)) / (high - low || 1));
        pixels.data.set(colours.subarray(3 * shown, 3 * shown + 3), 4 * i);
        pixels.data[4 * i + 3] = opacity[shown];
      });
      context.putImageData(pixels, 0, 0);
    }

    showAlone(said) {
      this.turn = null;
      this.canvas.hidden = this.scale.hidden = this.alone.hidden = true;
      delete this.canvas.dataset.shown;
      this.stack.classList.remove("shown");
      this.state.textContent = said;
    }
  }

  class Film {
    constructor(part, film) {
      this.film = film;
      this.frames = [...part.querySelectorAll(".frame")];
      this.button = part.querySelector(".play");
      this.slider = part.querySelector("input");
      this.output = part.querySelector("output");
      this.names = this.frames.map((frame) => frame.alt.replace(/ at step \d+$/, ""));
      this.timer = null;
      for (const frame of this.frames) frame.decoding = "sync";
      this.slider.addEventListener("input", () => { this.pause(); this.show(); });
      this.button.addEventListener("click", () => (this.timer === null ? this.play() : this.pause()));
      this.show();
    }

    show() {
      const at = Number(this.slider.value);
      const step = this.film.indices[at];
      this.frames.forEach((frame, i) => {
        frame.src = this.film.strips[frame.dataset.strip][at];
        frame.alt = `${this.names[i]} at step ${step}`;
      });
      this.output.textContent = `${step} of 0–${this.film.total - 1}`;
      this.slider.setAttribute("aria-valuetext", `step ${step} of 0–${this.film.total - 1}`);
    }

    play() {
      const last = Number(this.slider.max);
      if (Number(this.slider.value) === last) this.slider.value = "0";
      this.output.setAttribute("aria-live", "off"); // a screen reader is not told of every step of a playing film
      this.button.textContent = "Pause";
      this.show();
      const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 160;
      this.timer = setInterval(() => {
        this.slider.value = String(Number(this.slider.value) + 1);
        this.show();
        if (Number(this.slider.value) === last) this.pause();
      }, pause);
    }

    pause() {
      if (this.timer !== null) clearInterval(this.timer);
      this.timer = null;
      this.button.textContent = "Play";
      this.output.removeAttribute("aria-live");
    }
  }

  const articles = [...document.querySelectorAll("article.image")];
  const films = articles.map((article, i) => {
    new Attention(article, data.images[i].maps);
    return [...article.querySelectorAll(".film")].map((part, k) => new Film(part, data.images[i].films[k]));
  });

  const chooser = document.getElementById("chosen-image");
  if (chooser) {
    const show = () => articles.forEach((article, i) => {
      article.hidden = article.dataset.image !== chooser.value;
      if (article.hidden) films[i].forEach((film) => film.pause());
    });
    chooser.addEventListener("change", show);
    show();
  }

  for (const radio of document.querySelectorAll("input[name=theme]")) {
    radio.addEventListener("change", () => {
      if (radio.value) document.documentElement.dataset.theme = radio.value;
      else delete document.documentElement.dataset.theme;
    });
  }

  const copy = document.querySelector(".copy");
  copy.addEventListener("click", async () => {
    const code = document.querySelector(".code code");
    const said = document.querySelector(".copied");
    said.textContent = "";
    try {
      await navigator.clipboard.writeText(code.textContent);
      said.textContent = "Copied.";
    } catch {
      const selection = getSelection();
      selection.removeAllRanges();
      const range = document.createRange();
      range.selectNodeContents(code);
      selection.addRange(range);
      said.textContent = "Selected: this browser lets no page copy, so press Ctrl+C, or ⌘C.";
    }
  });
})();
