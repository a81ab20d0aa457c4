// SPDX-License-Identifier: Apache-2.0
// What stat and bargauge have in common: the newest value of each series, drawn side by side.
import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { VizRepeater } from "@grafana/ui";

export function Newest({ frames, panel, theme, ...place }) {
  const read = () =>
    getFieldDisplayValues({
      data: frames,
      fieldConfig: panel.fieldConfig,
      reduceOptions: panel.options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      timeZone: "utc",
    });
  return (
    <VizRepeater
      getValues={read}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      source={frames}
      renderCounter={1}
      orientation={panel.options.orientation}
      {...place}
    />
  );
}
