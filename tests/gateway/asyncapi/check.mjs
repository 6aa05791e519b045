// Reads an AsyncAPI document from standard input and prints what the official parser says of it, as JSON.
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
console.log(JSON.stringify({ parsed: document !== undefined, diagnostics }));
