// SPDX-License-Identifier: Apache-2.0
// timeseries. The component lies in a folder of the library that it means to bury: the version is pinned.
import { dateTime } from "@grafana/data";
import { TimeSeries } from "@grafana/ui";

export function Lines({ frames, panel, width, height, place }) {
  const from = dateTime((place.end - place.seconds) * 1000);
  const to = dateTime(place.end * 1000);
  const range = { from, to, raw: { from, to } };
  return (
    <TimeSeries
      frames={frames}
      structureRev={1}
      width={width}
      height={height}
      timeRange={range}
      timeZone="utc"
      legend={{ calcs: [], ...panel.options.legend }}
      options={panel.options}
    />
  );
}
