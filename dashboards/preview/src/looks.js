// SPDX-License-Identifier: Apache-2.0
// What a panel's fieldConfig says of its fields: defaults, then overrides, then Grafana's own display functions.
import { fieldMatchers, getDisplayProcessor } from "@grafana/data";

// What Grafana's own panel types begin with, where the JSON says nothing.
const LINE = { drawStyle: "line", lineWidth: 1, showPoints: "auto", pointSize: 5, axisPlacement: "auto" };
const COLOURS = { timeseries: "palette-classic" };

/** The same frames, each field with its config, its place among the series and a display function. */
export function dress(frames, panel, theme) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig;
  let place = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      if (field.type === "number") {
        field.config = { ...structuredClone(begin(panel, defaults)), ...field.config };
        field.state = { ...field.state, seriesIndex: place };
        place += 1;
      }
    }
  }
  for (const { matcher, properties } of overrides) {
    const matches = fieldMatchers.get(matcher.id).get(matcher.options);
    for (const frame of frames) {
      for (const field of frame.fields.filter((each) => matches(each, frame, frames))) {
        properties.forEach(({ id, value }) => set(field.config, id, structuredClone(value)));
      }
    }
  }
  const all = numbers(frames);
  const range = { min: Math.min(...all), max: Math.max(...all) };
  for (const field of frames.flatMap((frame) => frame.fields)) {
    if (field.type === "number") {
      const { min = range.min, max = range.max } = field.config;
      field.state.range = { min, max, delta: max - min };
    }
    for (const step of field.config.thresholds?.steps ?? []) {
      step.value ??= -Infinity;
    }
    field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
  }
  return frames;
}

function numbers(frames) {
  const fields = frames.flatMap((frame) => frame.fields).filter((field) => field.type === "number");
  return fields.flatMap((field) => field.values).filter((value) => Number.isFinite(value));
}

function begin(panel, defaults) {
  const custom = panel.type === "timeseries" ? { ...LINE, ...defaults.custom } : { ...defaults.custom };
  return { ...defaults, color: defaults.color ?? { mode: COLOURS[panel.type] ?? "thresholds" }, custom };
}

/** ``id`` may be a path, as in custom.lineWidth. */
function set(config, id, value) {
  const names = id.split(".");
  const last = names.pop();
  let inner = config;
  for (const name of names) {
    inner = inner[name] ??= {};
  }
  inner[last] = value;
}
