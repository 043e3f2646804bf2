import { fileURLToPath } from "node:url";

import { svelte } from "@sveltejs/vite-plugin-svelte";
import react from "@vitejs/plugin-react";
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";
import solid from "vite-plugin-solid";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const wanted = process.env.PAGES?.split(",") ?? ["react", "vue", "svelte", "solid", "query"];
// Another version of React, installed under another name.
const renamed = process.env.REACT ? { react: `react-${process.env.REACT}`, "react-dom": `react-dom-${process.env.REACT}` } : {};

export default defineConfig({
  base: "./",
  plugins: [
    react({ include: /\/(react|query)\/.*\.jsx$/ }), vue(), svelte(), solid({ include: /\/solid\/.*\.jsx$/ }),
  ],
  resolve: { alias: Object.entries(renamed).map(([name, other]) => ({ find: new RegExp(`^${name}(?=/|$)`), replacement: other })) },
  // As in development, where StrictMode does everything twice.
  define: { "process.env.NODE_ENV": JSON.stringify(process.env.NODE_ENV ?? "development") },
  build: {
    minify: false,
    rollupOptions: { input: Object.fromEntries(wanted.map((name) => [name, here(`${name}/index.html`)])) },
  },
});
