// SPDX-License-Identifier: Apache-2.0
// table: one frame, sorted as the JSON says.
import { Table } from "@grafana/ui";

export function Rows({ frames, panel, width, height }) {
  const { minWidth } = panel.fieldConfig.defaults.custom ?? {};
  return (
    <Table
      data={frames[0]}
      width={width}
      height={height}
      columnMinWidth={minWidth}
      initialSortBy={panel.options.sortBy}
      resizable={false}
    />
  );
}
