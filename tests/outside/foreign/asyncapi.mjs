// What AsyncAPI's own parser says of each file: one diagnostic a line; exit 1 on any.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, ...files] = process.argv.slice(2);
const { Parser } = createRequire(`${modules}/`)("@asyncapi/parser");
const parser = new Parser();
for (const file of files) {
  const { diagnostics } = await parser.parse(readFileSync(file, "utf8"));
  for (const { code, message, path } of diagnostics) {
    console.error(`${file}: ${code}: ${message} at ${path.join(".")}`);
    process.exitCode = 1;
  }
}
