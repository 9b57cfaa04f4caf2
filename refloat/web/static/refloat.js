// Keeps a job's page live: the hub pushes the part that changed.
"use strict";
(() => {
  const LATER = 2000; // milliseconds: what somebody is typing is not taken from under their hands

  function follow(line) {
    const job = document.getElementById("job");
    let pending = null;

    const show = () => {
      if (pending === null) return;
      const form = job.querySelector("details[open] form");
      const looking = job.querySelector("[popover]:popover-open");
      if (looking || (form && form.contains(document.activeElement))) { setTimeout(show, LATER); return; }
      const open = [...job.querySelectorAll("details[open]")].map((one) => one.className);
      htmx.swap(job, pending, { swapStyle: "innerHTML" });
      pending = null;
      job.querySelectorAll("details").forEach((one) => { one.open = open.includes(one.className); });
      clock();
    };

    const source = new EventSource(line.dataset.stream);
    source.onopen = () => { line.textContent = "live"; line.classList.remove("lost"); };
    source.onerror = () => { line.textContent = "the hub does not answer; trying again…"; line.classList.add("lost"); };
    source.addEventListener("panel", (event) => {
      const waiting = pending !== null;
      pending = JSON.parse(event.data);
      if (!waiting) show();
    });
  }

  function clock() {
    document.querySelectorAll("[data-since]").forEach((one) => {
      const seconds = Math.max(0, Math.round((Date.now() - Date.parse(one.dataset.since)) / 1000));
      one.textContent = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    const line = document.querySelector("[data-stream]");
    if (line) follow(line);
    clock();
    setInterval(clock, 1000);
  });
})();
