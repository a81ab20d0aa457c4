// SPDX-License-Identifier: Apache-2.0
// bargauge: the newest values, a bar each.
import { getDisplayValueAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { BarGauge, VizRepeater } from "@grafana/ui";

export function Bars({ frames, panel, width, height, theme }) {
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
  const draw = ({ value, width: wide, height: tall, alignmentFactors, orientation }) => (
    <BarGauge
      value={value.display}
      width={wide}
      height={tall}
      orientation={orientation}
      field={value.field}
      display={value.view?.getFieldDisplayProcessor(value.colIndex)}
      theme={theme}
      itemSpacing={10}
      text={options.text}
      lcdCellWidth={8}
      displayMode={options.displayMode}
      alignmentFactors={alignmentFactors}
      showUnfilled={options.showUnfilled}
      valueDisplayMode={options.valueMode}
      namePlacement={options.namePlacement}
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
      itemSpacing={10}
      renderCounter={1}
      minVizHeight={options.minVizHeight ?? 16}
      maxVizHeight={options.maxVizHeight ?? 300}
      orientation={options.orientation}
    />
  );
}
