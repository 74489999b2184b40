// Runs before anything is drawn, so that a chosen theme never flashes. Without a choice the system's is used.
"use strict";
try {
  const chosen = localStorage.getItem("spendflush-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* storage is forbidden: the system's theme it is */ }
