// SPDX-License-Identifier: Apache-2.0
// From a panel of the JSON to data frames: queries, names, transformations, looks. The last two are Grafana's own.
import { standardTransformers, standardTransformersRegistry, transformDataFrame } from "@grafana/data";
import { firstValueFrom } from "rxjs";

import { dress } from "./looks.js";
import { ask, asTable, filled, overTime } from "./prometheus.js";

// Some have a second name there; an id may be registered once.
const known = new Map(Object.values(standardTransformers).map((info) => [info.id, info]));
standardTransformersRegistry.setInit(() =>
  [...known.values()].map((info) => ({
    id: info.id,
    name: info.name,
    transformation: () => Promise.resolve(info),
    editor: () => null,
    imageDark: "",
    imageLight: "",
  })),
);

/** The dashboard with the frames of each panel, and what there is to report. */
export async function load(name, place, theme) {
  const board = await (await fetch(`/${name}.json`)).json();
  const report = { panels: 0, empty: [], failed: [] };
  const frames = new Map();
  for (const panel of board.panels.filter((each) => each.type !== "row")) {
    report.panels += 1;
    try {
      frames.set(panel, await framesOf(panel, place, theme));
    } catch (error) {
      report.failed.push(`${panel.title}: ${error.message}`);
      continue;
    }
    const isFilled = panel.type === "table" ? hasRows : hasValues;
    if (!frames.get(panel).some(isFilled)) {
      report.empty.push(panel.title);
    }
  }
  return { board, frames, report };
}

/** A table may consist of words. */
function hasRows(frame) {
  return frame.fields.some((field) => field.values.length > 0);
}

function hasValues(frame) {
  return frame.fields.some((field) => field.type === "number" && field.values.some((value) => value !== null));
}

async function framesOf(panel, place, theme) {
  const found = [];
  for (const target of panel.targets) {
    const answer = await ask(filled(target.expr, place), target.range === true, place);
    const alone = panel.targets.length === 1;
    found.push(...(target.format === "table" ? asTable(answer, target, alone) : overTime(answer, target, place)));
  }
  const changed = await firstValueFrom(transformDataFrame(panel.transformations ?? [], found));
  return dress(changed, panel, theme);
}
