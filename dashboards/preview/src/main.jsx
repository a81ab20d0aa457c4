// SPDX-License-Identifier: Apache-2.0
// A dashboard's JSON drawn with Grafana's own panel components, with the answers of a real Prometheus.
//
//   /?board=host&skip=31&prometheus=http://127.0.0.1:9090&instance=ward-3&seconds=300&step=5
//
// This is Grafana's drawing and not its loader: whether a Grafana imports the file is not shown here. When all
// panels are drawn, the element #report holds, as JSON, how many there are and which of them have no values.
import "@fontsource/inter/400.css";
import "@fontsource/inter/500.css";
import { createTheme, ThemeContext } from "@grafana/data";
import { GlobalStyles } from "@grafana/ui";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

import { Board } from "./board.jsx";
import { load } from "./data.js";

const theme = createTheme({ colors: { mode: "dark" } });
const words = new URLSearchParams(location.search);
const place = {
  prometheus: words.get("prometheus") ?? "http://127.0.0.1:9090",
  instance: words.get("instance") ?? ".+",
  seconds: Number(words.get("seconds") ?? 3600),
  step: Number(words.get("step") ?? 15),
  scrape: Number(words.get("scrape") ?? 15),
  skip: Number(words.get("skip") ?? 0),
  end: Number(words.get("end") ?? Date.now() / 1000),
};

function Page() {
  const [loaded, setLoaded] = useState(null);
  useEffect(() => {
    load(words.get("board") ?? "host", place, theme).then(setLoaded);
  }, []);
  if (loaded === null) {
    return null;
  }
  return (
    <>
      <Board loaded={loaded} place={place} theme={theme} />
      <script id="report" type="application/json">
        {JSON.stringify(loaded.report)}
      </script>
    </>
  );
}

createRoot(document.getElementById("root")).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <Page />
  </ThemeContext.Provider>,
);
