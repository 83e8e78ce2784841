// The study, as report/page_data.py wrote it, and what a reader has set.

const data = JSON.parse(byId("data").textContent);
const baseline = data.candidates.find(c => c.kind === "baseline");
const state = {
  wishes: {maxDrop: data.study.maxDrop, maxLatency: null, maxSize: null, targetSpeedup: null},
  choice: null, // of the rule, for the wishes
  allowed: new Set(), // candidates that break no wish
  selected: [], // one or two that are open
};
