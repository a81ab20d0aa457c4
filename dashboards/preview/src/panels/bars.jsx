// SPDX-License-Identifier: Apache-2.0
// bargauge: the newest values, a bar each.
import { BarGauge } from "@grafana/ui";

import { Newest } from "./newest.jsx";

export function Bars({ frames, panel, width, height, theme }) {
  const { options } = panel;
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
    <Newest
      frames={frames}
      panel={panel}
      theme={theme}
      renderValue={draw}
      width={width}
      height={height}
      itemSpacing={10}
      minVizHeight={options.minVizHeight ?? 16}
      maxVizHeight={options.maxVizHeight ?? 300}
    />
  );
}
