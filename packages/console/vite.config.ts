import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  // Nothing of it is ever in the document itself: its policy allows no inline script or style.
  build: {
    target: "es2023",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    chunkSizeWarningLimit: 600,
  },
  // To work on it: `dlq console` beside `vite`.
  server: { proxy: { "/api": "http://127.0.0.1:4480" } },
});
