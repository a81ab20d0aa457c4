// SPDX-License-Identifier: Apache-2.0
// The page: rows and panels where gridPos says, 24 columns wide, a line 30 pixels high and 8 apart, as in Grafana.
import { PanelChrome } from "@grafana/ui";

import { Bars } from "./panels/bars.jsx";
import { Lines } from "./panels/lines.jsx";
import { Rows } from "./panels/rows.jsx";
import { Values } from "./panels/values.jsx";

const COLUMNS = 24;
const LINE = 30;
const GAP = 8;
const HEAD = 64;
const DRAWN = { bargauge: Bars, stat: Values, table: Rows, timeseries: Lines };

export function Board({ loaded, place, theme }) {
  const { board } = loaded;
  const column = (window.innerWidth - GAP) / COLUMNS;
  return (
    <main style={{ position: "relative", background: theme.colors.background.canvas, minHeight: "100vh" }}>
      <h1 style={{ ...theme.typography.h3, margin: 0, padding: "14px 16px 0" }}>{board.title}</h1>
      <p style={{ color: theme.colors.text.secondary, padding: "0 16px" }}>{board.description}</p>
      {board.panels.filter(({ gridPos }) => gridPos.y >= place.skip).map((panel) => {
        const frames = loaded.frames.get(panel);
        return <Placed key={panel.id} column={column} panel={panel} frames={frames} place={place} theme={theme} />;
      })}
    </main>
  );
}

function Placed({ panel, column, frames, place, theme }) {
  const { x, w, h } = panel.gridPos;
  const y = panel.gridPos.y - place.skip;
  const width = w * column - GAP;
  const height = h * (LINE + GAP) - GAP;
  const style = { position: "absolute", left: x * column + GAP, top: HEAD + y * (LINE + GAP), width, height };
  if (panel.type === "row") {
    return <h2 style={{ ...style, ...theme.typography.h5, margin: 0, lineHeight: `${height}px` }}>{panel.title}</h2>;
  }
  const Drawn = DRAWN[panel.type];
  return (
    <div style={style}>
      <PanelChrome width={width} height={height} title={panel.title} description={panel.description}>
        {(inner, tall) =>
          frames?.length ? (
            <Drawn frames={frames} panel={panel} width={inner} height={tall} place={place} theme={theme} />
          ) : (
            <p>No data</p>
          )
        }
      </PanelChrome>
    </div>
  );
}
