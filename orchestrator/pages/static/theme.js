// The reader's choice of light or dark, before anything is painted.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("kv-swarm-theme"); } catch { /* storage is off */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
