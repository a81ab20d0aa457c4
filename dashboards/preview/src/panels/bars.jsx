// SPDX-License-Identifier: Apache-2.0
// bargauge: the newest values, a bar each.
import { BarGauge } from "@grafana/ui";
import { Newest } from "./newest.jsx";

export function Bars(place) {
  const { options } = place.panel;
  const draw = ({ value, width, height, alignmentFactors, orientation }) => (
    <BarGauge
      value={value.display}
      width={width}
      height={height}
      orientation={orientation}
      field={value.field}
      display={value.view?.getFieldDisplayProcessor(value.colIndex)}
      theme={place.theme}
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
  const [minVizHeight, maxVizHeight] = [options.minVizHeight ?? 16, options.maxVizHeight ?? 300];
  return (
    <Newest {...place} draw={draw} itemSpacing={10} minVizHeight={minVizHeight} maxVizHeight={maxVizHeight} />
  );
}
