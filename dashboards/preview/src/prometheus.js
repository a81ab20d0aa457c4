// SPDX-License-Identifier: Apache-2.0
// Prometheus' HTTP interface, and its answers as Grafana's data frames.
import { FieldType } from "@grafana/data";

/** The expression with the variables that Grafana would fill in. */
export function filled(expr, place) {
  const rate = Math.max(place.step + place.scrape, 4 * place.scrape);
  return expr
    .replaceAll("$__rate_interval", `${rate}s`)
    .replaceAll("$__range", `${place.seconds}s`)
    .replaceAll("$job", "homebound")
    .replaceAll("$instance", place.instance);
}

/** The series of an answer. Throws with Prometheus' own words. */
export async function ask(expr, range, place) {
  const words = { query: expr, time: place.end };
  if (range) {
    Object.assign(words, { start: place.end - place.seconds, end: place.end, step: place.step });
  }
  const url = `${place.prometheus}/api/v1/query${range ? "_range" : ""}?${new URLSearchParams(words)}`;
  const answer = await (await fetch(url)).json();
  if (answer.status !== "success") {
    throw new Error(answer.error);
  }
  return answer.data.result;
}

/** A frame for each series: its times, and its values under the legend's name. */
export function overTime(series, target, place) {
  return series.map(({ metric, values, value }) => {
    const points = values ?? [value];
    return {
      refId: target.refId,
      length: points.length,
      fields: [
        {
          name: "Time",
          type: FieldType.time,
          config: { interval: place.step * 1000 },
          values: points.map(([moment]) => moment * 1000),
        },
        {
          name: "Value",
          type: FieldType.number,
          config: { displayNameFromDS: legend(target.legendFormat, metric) },
          labels: metric,
          values: points.map(([, text]) => number(text)),
        },
      ],
    };
  });
}

/** One frame for all series: a column for each label, and the value's. */
export function asTable(series, target, alone) {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const columns = labels.map((name) => ({
    name,
    type: FieldType.string,
    config: {},
    values: series.map(({ metric }) => metric[name] ?? ""),
  }));
  const name = alone ? "Value" : `Value #${target.refId}`;
  const values = series.map(({ value }) => number(value[1]));
  columns.push({ name, type: FieldType.number, config: {}, values });
  return [{ refId: target.refId, length: series.length, fields: columns }];
}

function legend(format, metric) {
  return (format || "").replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => metric[name] ?? "");
}

function number(text) {
  return { NaN: null, "+Inf": Infinity, "-Inf": -Infinity }[text] ?? (text === "NaN" ? null : Number(text));
}
