// Draws the charts in the page's colours, and keeps pages of running campaigns up to date.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 600px)");
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
  let paper = false;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function themed(layout) {
    const text = colour("--text"), grid = colour("--grid"), line = colour("--line");
    const result = structuredClone(layout);
    for (const [name, axis] of Object.entries(result)) {
      if (!/^[xy]axis/.test(name)) continue;
      Object.assign(axis, { gridcolor: grid, linecolor: line, zerolinecolor: grid, tickcolor: line });
      axis.showline = true;
      if (narrow.matches && name[0] === "x") axis.nticks = 6;
    }
    const legend = { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { size: 12 } };
    return Object.assign(result, {
      legend,
      autosize: true,
      dragmode: false,
      hovermode: "closest",
      margin: { l: 8, r: 12, t: 34, b: 8, ...layout.margin },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "inherit", size: narrow.matches ? 11 : 12, color: text },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: text }, align: "left", namelength: -1 },
    });
  }

  function figure(plot) {
    return JSON.parse(plot.closest("figure").querySelector('script[type="application/json"]').textContent);
  }

  function coloured(data) {
    const text = colour("--text");
    for (const trace of data) if (trace.colorbar) Object.assign(trace.colorbar, { tickfont: { color: text }, outlinewidth: 0 });
    return data;
  }

  async function draw(scope) {
    for (const plot of scope.querySelectorAll(".plot")) {
      const { data, layout } = figure(plot);
      if (!plot.drawn) plot.replaceChildren();
      await window.Plotly.react(plot, coloured(data), themed(layout), config);
      if (plot.drawn) continue;
      plot.drawn = true;
      plot.dataset.drawn = "yes";
      plot.on("plotly_click", (event) => {
        const trial = event.points[0].customdata;
        const prefix = document.body.dataset.trial;
        if (prefix && Number.isInteger(trial)) location.href = prefix + trial;
      });
    }
  }

  const names = { "": "auto", light: "light", dark: "dark" };

  function choose(theme) {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
    try { localStorage.setItem("kv-swarm-theme", theme); } catch { /* storage is off */ }
  }

  function themes() {
    const button = document.getElementById("theme");
    const show = () => {
      const name = names[root.dataset.theme ?? ""];
      button.textContent = `◐ ${name}`;
      button.setAttribute("aria-label", `Theme: ${name}`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      const order = ["", "light", "dark"];
      choose(order[(order.indexOf(root.dataset.theme ?? "") + 1) % 3]);
      show();
      draw(document);
    });
    show();
  }

  // Paper is white: charts are redrawn for it, tables opened on request stay as they are.
  function printing() {
    let before;
    addEventListener("beforeprint", () => {
      before = root.dataset.theme ?? "";
      root.dataset.theme = "light";
      draw(document);
    });
    addEventListener("afterprint", () => {
      if (before) root.dataset.theme = before; else delete root.dataset.theme;
      draw(document);
    });
  }

  // A link to something inside a folded table opens it.
  function unfold() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details");
    if (fold && !fold.open) { fold.open = true; target.scrollIntoView(); }
  }

  async function refresh(every) {
    let tag = document.body.dataset.tag ?? "";
    for (;;) {
      await new Promise((done) => setTimeout(done, every));
      if (document.hidden) continue;
      const status = document.getElementById("live");
      try {
        const answer = await fetch(location.href, { headers: { "If-None-Match": tag }, cache: "no-store" });
        if (answer.status === 304) { if (status) status.textContent = "live"; continue; }
        if (!answer.ok) throw new Error(String(answer.status));
        tag = answer.headers.get("ETag") ?? "";
        await swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
        if (!document.body.dataset.every) return;
      } catch { if (status) status.textContent = "no connection"; }
    }
  }

  // Takes over the sections that changed; what the reader opened stays open.
  async function swap(fresh) {
    const names = [...fresh.querySelectorAll("main > section")].map((section) => section.id);
    if (names.join() !== [...document.querySelectorAll("main > section")].map((section) => section.id).join()) {
      location.reload();
      return;
    }
    for (const name of names) {
      const old = document.getElementById(name), now = fresh.getElementById(name);
      if (old.dataset.source === now.innerHTML) continue;
      const open = [...old.querySelectorAll("details")].map((fold) => fold.open);
      const source = now.innerHTML;
      now.querySelectorAll("details").forEach((fold, index) => { fold.open = open[index] ?? false; });
      old.querySelectorAll(".plot").forEach((plot) => plot.drawn && window.Plotly.purge(plot));
      now.querySelectorAll(".plot").forEach((plot) => { plot.style.minHeight = `${plot.dataset.height}px`; });
      old.replaceWith(document.adoptNode(now));
      now.dataset.source = source;
      await draw(now);
    }
    const live = fresh.getElementById("live");
    document.getElementById("live")?.replaceWith(live ?? "");
    if (!fresh.body.dataset.every) delete document.body.dataset.every;
  }

  async function start() {
    themes();
    for (const plot of document.querySelectorAll(".plot")) plot.style.minHeight = `${plot.dataset.height}px`;
    addEventListener("hashchange", unfold);
    unfold();
    const every = Number(document.body.dataset.every);
    if (every) {
      for (const section of document.querySelectorAll("main > section")) section.dataset.source = section.innerHTML;
      refresh(every);
    }
    await window.kvPlotly;
    if (!window.Plotly) return;
    await draw(document);
    printing();
    dark.addEventListener("change", () => draw(document));
    narrow.addEventListener("change", () => draw(document));
    document.body.dataset.ready = "yes";
  }

  start();
})();
