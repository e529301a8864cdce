"use strict";
(() => {
  const data = JSON.parse(document.getElementById("query-data").textContent);
  const { queries, gallery, arms, pairs, sources, depth } = data;
  const form = document.getElementById("query-filters");
  const list = document.getElementById("query-list");
  const detail = document.getElementById("query-detail");
  const count = document.getElementById("query-count");
  const ROW_PX = 46;
  let shown = [];
  let chosen = -1;

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const arm = (side) => arms[pairs[Number(form.pair.value)][side]];
  const gain = (query) => arm(1).ap[query] - arm(0).ap[query];
  const percent = (value) => (100 * value).toFixed(1);
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "\u00b1") + Math.abs(100 * value).toFixed(1);

  const isWanted = {
    all: () => true,
    won: (query) => gain(query) > 0,
    lost: (query) => gain(query) < 0,
    "first-won": (query) => arm(0).first[query] > 1 && arm(1).first[query] === 1,
    "first-lost": (query) => arm(0).first[query] === 1 && arm(1).first[query] > 1,
  };

  function filter() {
    const person = form.person.value.trim();
    shown = queries.id.map((_, query) => query).filter((query) =>
      isWanted[form.sign.value](query) &&
      (form.camera.value === "" || String(queries.camera[query]) === form.camera.value) &&
      (person === "" || queries.person[query] === person));
    const order = form.order.value;
    if (order !== "name") {
      const sign = order === "gain" ? -1 : 1;
      shown.sort((a, b) => sign * (gain(a) - gain(b)) || a - b);
    }
    count.textContent = `${shown.length.toLocaleString("en")} of ${queries.id.length.toLocaleString("en")} queries`;
    list.scrollTop = 0;
    draw();
  }

  // Only the rows in sight exist: thousands of queries cost no more than twenty.
  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - 4);
    const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW_PX) + 9);
    const spacer = element("div");
    spacer.setAttribute("role", "presentation");
    spacer.style.height = `${shown.length * ROW_PX}px`;
    const rows = [];
    for (let place = first; place < last; place += 1) rows.push(row(place));
    list.replaceChildren(spacer, ...rows);
    const active = shown.indexOf(chosen);
    if (active >= first && active < last) list.setAttribute("aria-activedescendant", `query-row-${active}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function row(place) {
    const query = shown[place];
    const change = gain(query);
    const made = element("div", "row");
    made.id = `query-row-${place}`;
    made.style.top = `${place * ROW_PX}px`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-setsize", shown.length);
    made.setAttribute("aria-posinset", place + 1);
    made.setAttribute("aria-selected", query === chosen);
    made.dataset.query = query;
    made.append(
      element("span", "", queries.id[query]),
      element("span", `g ${change > 0 ? "up" : change < 0 ? "down" : ""}`, signed(change)),
      element("span", "soft", `person ${queries.person[query]}, camera ${queries.camera[query]}, ${queries.matches[query]} matches`),
      element("span", "soft", `AP ${percent(arm(0).ap[query])} \u2192 ${percent(arm(1).ap[query])}`));
    return made;
  }

  function choose(query, scroll) {
    chosen = query;
    if (scroll) {
      const top = shown.indexOf(query) * ROW_PX;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
    }
    draw();
    show(query);
    const link = new URLSearchParams({ query: queries.id[query], pair: form.pair.value });
    history.replaceState(null, "", `#${link}`);
  }

  function tile(name, lines, isRight) {
    const made = element("li", "tile");
    made.title = name;
    const mark = isRight === undefined ? "" : isRight ? "right" : "wrong";
    const box = element("div", `box ${mark}`);
    const blank = () => box.prepend(element("span", "", "no picture"));
    if (Object.hasOwn(sources, name)) {
      const image = element("img");
      image.loading = "lazy";
      image.alt = `${name}${mark && `, ${mark}`}`;
      image.addEventListener("error", () => { image.remove(); blank(); });
      image.src = sources[name];
      box.append(image);
    } else blank();
    if (mark) {
      const sign = element("span", "mark", isRight ? "\u2713" : "\u2717");
      sign.append(element("span", "off", mark));
      box.append(sign);
    }
    made.append(box, ...lines.map((line) => element("div", "", line)));
    return made;
  }

  function ranked(side, query) {
    const { name, seeds, ap, first, nearest, right } = arm(side);
    const part = element("section");
    const over = seeds.length > 1 ? ` over ${seeds.length} seeds; with seed ${seeds[0]}` : "";
    part.append(element("h4", "", `${name}: AP ${percent(ap[query])}${over}, first match at rank ${first[query]}`));
    if (nearest === null) {
      part.append(element("p", "soft", "This run was scored before ranked images were kept: 'reid score' adds them."));
      return part;
    }
    const strip = element("ol", "strip");
    for (let place = 0; place < depth; place += 1) {
      const image = nearest[query * depth + place];
      if (image < 0) break;
      const lines = [`${place + 1}. ${gallery.person[image]}`, `camera ${gallery.camera[image]}`];
      strip.append(tile(gallery.id[image], lines, Boolean(right[query] & (1 << place))));
    }
    part.append(strip);
    return part;
  }

  function show(query) {
    const head = element("h3", "", `${queries.id[query]}: ${signed(gain(query))} AP`);
    const strip = element("ul", "strip");
    strip.append(tile(queries.id[query], [`person ${queries.person[query]}`, `camera ${queries.camera[query]}`]));
    detail.replaceChildren(head, strip, ranked(0, query), ranked(1, query));
  }

  function follow() {
    const link = new URLSearchParams(location.hash.slice(1));
    const query = queries.id.indexOf(link.get("query"));
    if (link.has("pair") && pairs[Number(link.get("pair"))]) form.pair.value = link.get("pair");
    if (link.has("person")) form.person.value = link.get("person");
    if (query < 0 && !link.has("person")) return;
    if (query >= 0) form.reset(), (form.pair.value = link.get("pair") ?? "0");
    filter();
    if (query >= 0) choose(query, true);
    document.getElementById("queries").scrollIntoView();
  }

  list.addEventListener("scroll", draw, { passive: true });
  list.addEventListener("click", (event) => {
    const made = event.target.closest(".row");
    if (made) choose(Number(made.dataset.query), false);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity, Enter: 0 }[event.key];
    if (step === undefined || !shown.length) return;
    event.preventDefault();
    const place = Math.min(Math.max(shown.indexOf(chosen) + step, 0), shown.length - 1);
    choose(shown[place], true);
  });
  form.addEventListener("input", () => { filter(); if (chosen >= 0) show(chosen); });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", follow);
  window.addEventListener("resize", draw);
  filter();
  follow();
})();
