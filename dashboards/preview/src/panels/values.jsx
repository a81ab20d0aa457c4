// SPDX-License-Identifier: Apache-2.0
// stat: the newest values, large.
import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { BigValue, VizRepeater } from "@grafana/ui";

export function Values({ frames, panel, width, height, theme }) {
  const { options } = panel;
  const read = () =>
    getFieldDisplayValues({
      data: frames,
      fieldConfig: panel.fieldConfig,
      reduceOptions: options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      timeZone: "utc",
    });
  const draw = ({ value, width: wide, height: tall, alignmentFactors, count }) => (
    <BigValue
      value={value.display}
      width={wide}
      height={tall}
      theme={theme}
      alignmentFactors={alignmentFactors}
      count={count}
      colorMode={options.colorMode}
      graphMode={options.graphMode}
      text={options.text}
      justifyMode={options.justifyMode ?? "auto"}
      textMode={options.textMode}
    />
  );
  return (
    <VizRepeater
      getValues={read}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={draw}
      width={width}
      height={height}
      source={frames}
      itemSpacing={3}
      renderCounter={1}
      autoGrid
      orientation={options.orientation}
    />
  );
}
