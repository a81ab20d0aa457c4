// SPDX-License-Identifier: Apache-2.0
// stat: the newest values, large.
import { BigValue } from "@grafana/ui";
import { Newest } from "./newest.jsx";

export function Values(place) {
  const { options } = place.panel;
  const draw = ({ value, width, height, alignmentFactors, count }) => (
    <BigValue
      value={value.display}
      width={width}
      height={height}
      theme={place.theme}
      alignmentFactors={alignmentFactors}
      count={count}
      colorMode={options.colorMode}
      graphMode={options.graphMode}
      text={options.text}
      justifyMode={options.justifyMode ?? "auto"}
      textMode={options.textMode}
    />
  );
  return <Newest {...place} draw={draw} itemSpacing={3} autoGrid />;
}
