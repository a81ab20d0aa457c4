// SPDX-License-Identifier: Apache-2.0
// stat: the newest values, large.
import { BigValue } from "@grafana/ui";

import { Newest } from "./newest.jsx";

export function Values({ frames, panel, width, height, theme }) {
  const { options } = panel;
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
    <Newest
      frames={frames}
      panel={panel}
      theme={theme}
      renderValue={draw}
      width={width}
      height={height}
      itemSpacing={3}
      autoGrid
    />
  );
}
