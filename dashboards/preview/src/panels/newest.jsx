// SPDX-License-Identifier: Apache-2.0
// The newest value of each series, drawn one beside the other by what `draw` makes of it.
import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { VizRepeater } from "@grafana/ui";

export function Newest({ frames, panel, width, height, theme, draw, ...layout }) {
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
      renderValue={draw}
      width={width}
      height={height}
      source={frames}
      renderCounter={1}
      orientation={panel.options.orientation}
      {...layout}
    />
  );
}
