// Says so when a page is no longer kept up to date. Pages read without this.
"use strict";
const show = (isStale) => {
  document.querySelector(".stale").hidden = !isStale;
};
document.addEventListener("htmx:sendError", () => show(true));
document.addEventListener("htmx:timeout", () => show(true));
document.addEventListener("htmx:afterOnLoad", () => show(false));
