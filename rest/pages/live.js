// Reloads the page when its warehouse changes; without it the page still shows
// everything as of when it was loaded.
const live = document.getElementById("live");
let first = true;
const events = new EventSource(live.dataset.events);
events.addEventListener("status", () => {
  if (!first) location.reload();
  first = false;
});
events.addEventListener("gone", () => location.reload());
