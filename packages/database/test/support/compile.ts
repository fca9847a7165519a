/** What the compiler says of a program of the documents. */
import { join } from "node:path";
import ts from "typescript";
import { root } from "./process.js";

/** The workspace's own rules. */
export const compilerOptions = (): ts.CompilerOptions => {
  const { config } = ts.readConfigFile(join(root, "tsconfig.base.json"), ts.sys.readFile);
  return { ...ts.parseJsonConfigFileContent({ ...config, files: [] }, ts.sys, root).options, noEmit: true };
};

export const diagnosticsOf = (program: ts.Program) =>
  ts
    .getPreEmitDiagnostics(program)
    .map((_) => `${_.file?.fileName.split("/").at(-1)}: ${ts.flattenDiagnosticMessageText(_.messageText, "\n")}`);
