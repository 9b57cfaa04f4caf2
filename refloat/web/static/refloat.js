// Keeps a job's page live: each event of the hub asks for the changed part once, however many events come.
"use strict";
(() => {
  const KINDS = ["state", "step", "step_done", "progress", "decision", "report", "reminder", "evidence", "observation"];
  const PAUSE = 400; // milliseconds in which events are gathered

  function follow(line) {
    const job = document.getElementById("job");
    let waiting = null;
    let shown = Number(job.querySelector("[data-newest]")?.dataset.newest || 0);
    const ask = () => {
      waiting = null;
      // What somebody is typing or has opened must not be taken from under their hands.
      const open = job.querySelector("details[open] form");
      if (open && open.contains(document.activeElement)) { waiting = setTimeout(ask, 2000); return; }
      htmx.trigger(job, "refresh");
    };
    const heard = (event) => {
      if (Number(event.lastEventId) <= shown) return;
      shown = Number(event.lastEventId);
      if (!waiting) waiting = setTimeout(ask, PAUSE);
    };
    const source = new EventSource(line.dataset.stream);
    source.onopen = () => { line.textContent = "live"; line.classList.remove("lost"); };
    source.onerror = () => { line.textContent = "the hub does not answer; trying again…"; line.classList.add("lost"); };
    KINDS.forEach((kind) => source.addEventListener(kind, heard));
    source.onmessage = heard;
  }

  function clock() {
    document.querySelectorAll("[data-since]").forEach((one) => {
      const seconds = Math.max(0, Math.round((Date.now() - Date.parse(one.dataset.since)) / 1000));
      one.textContent = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
    });
  }

  // Open parts stay open when the job's panel is renewed.
  let opened = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id === "job")
      opened = [...event.detail.target.querySelectorAll("details[open]")].map((one) => one.className);
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id === "job")
      event.detail.target.querySelectorAll("details").forEach((one) => { one.open = opened.includes(one.className); });
    clock();
  });
  document.addEventListener("DOMContentLoaded", () => {
    const line = document.querySelector("[data-stream]");
    if (line) follow(line);
    clock();
    setInterval(clock, 1000);
  });
})();
