// SPDX-License-Identifier: Apache-2.0
// One page; the icons that Grafana's components fetch by name come from its own package.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  publicDir: "node_modules/@grafana/ui/dist/public",
  build: { target: "es2022", minify: false, chunkSizeWarningLimit: 8192, reportCompressedSize: false },
});
